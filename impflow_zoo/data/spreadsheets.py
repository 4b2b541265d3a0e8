"""Tables for spreadsheets, which would take a cell that begins like a formula for one.

Such a cell gets a single quote in front, as OWASP advises for CSV files. Reading takes the quote of
a column's name away again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import pandas

__all__ = ["as_csv", "plain_name", "safe_cell"]

# Signs alone compute nothing: a lone "-" often stands for a value that is missing.
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20].*\w", re.DOTALL)
Cell = TypeVar("Cell")


def safe_cell(cell: Cell) -> Cell | str:
    """What stands in a cell of a CSV file; numbers, as such or as text, stay as they are.

    Example:
        >>> safe_cell("=1+1"), safe_cell("-1.5"), safe_cell(-1.5)
        ("'=1+1", '-1.5', -1.5)
    """
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _is_number(cell):
        return cell
    return f"'{cell}"


def plain_name(name: str) -> str:
    """The name of a column that `safe_cell` made safe."""
    return name[1:] if name.startswith("'") and _FORMULA.match(name, 1) else name


def as_csv(table: pandas.DataFrame) -> bytes:
    """A table as a CSV file without formulas, UTF-8."""
    import pandas

    safe = table.set_axis([safe_cell(name) for name in table.columns], axis=1)
    for i, kind in enumerate(table.dtypes):
        if kind.kind not in "biuf":
            cells = [safe_cell(cell) for cell in table.iloc[:, i]]  # `map` would turn 7 into 7.0
            safe.isetitem(i, pandas.Series(cells, table.index, dtype=object))
    return safe.to_csv(index=False, lineterminator="\n").encode()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
