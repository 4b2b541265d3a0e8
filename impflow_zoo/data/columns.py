"""The columns of a table: those that are numbers, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from impflow_zoo.data.names import listed
from impflow_zoo.data.source import DataError

if TYPE_CHECKING:
    import numpy
    import pandas

__all__ = [
    "EXACT",
    "GROUP",
    "TOO_LARGE",
    "Columns",
    "in_order",
    "numbered",
    "refuse_other_columns",
    "text_cell",
    "without_cell",
]

EXACT = 2**53  # float64 holds all whole numbers up to it
GROUP = "group"  # the column that tells which rows belong together

TOO_LARGE = (
    "holds whole numbers above 2^53, which float64 rounds: subtract an offset, or leave it out"
)
_TEXT = "is not numeric"


@dataclass(frozen=True)
class Columns:
    """The columns of a table.

    Arguments:
        names: the names of all columns, in order.
        numbers: those that were asked for and are numbers, float64 with shape `(N,)`; a missing
            value is NaN.
        reasons: what is wrong with the others that were asked for, as "is not numeric".
        groups: the group of each row, int64 with shape `(N,)`; None without a column `group`.
        weights: the weight of each row, float64 with shape `(N,)`, positive; None if all rows count
            alike.
    """

    names: tuple[str, ...]
    numbers: dict[str, numpy.ndarray]
    reasons: dict[str, str]
    groups: numpy.ndarray | None = None
    weights: numpy.ndarray | None = None


def numbered(groups: pandas.Series, name: str, *, labels: bool) -> numpy.ndarray:
    """Groups numbered in the order in which they appear.

    Arguments:
        groups: of the rows.
        name: the name of the table, for messages.
        labels: whether they are no quantities.

    Raises:
        DataError: if a row has none, or they are quantities or lists.
    """
    found = f"{name}: column {GROUP!r} tells which rows belong together"
    missing = groups.isna() | (groups == "")
    if missing.any():
        raise DataError(f"{found}, and row {missing.argmax()} has none: fill or rename it")
    if not labels:
        raise DataError(f"{found}, by whole numbers or text: rename it if it is a quantity")
    try:
        return groups.factorize()[0]
    except TypeError:  # of what has no hash
        kind = type(groups.iloc[0]).__name__
        raise DataError(f"{found}, by whole numbers or text, not by {kind}") from None


def in_order(names: Sequence[str]) -> list[str]:
    """Columns as a model without names takes them: those that it calls x0, x1, ... in this order.

    So are samples called, and rows of them may come back in any order. Other names say nothing.
    """
    own = [f"x{i}" for i in range(len(names))]
    return own if set(own) == set(names) else list(names)


def text_cell(row: int, cell: object) -> str:
    """The reason of a column that holds something else than numbers."""
    return f"{_TEXT}, row {row} holds {str(cell)[:40]!r}"


def without_cell(reason: str) -> str:
    """A reason as it may be published, without what a cell holds."""
    return _TEXT if reason.startswith(_TEXT) else reason


def refuse_other_columns(
    found: Sequence[str], names: Sequence[str], file: Path, first: Path
) -> None:
    """The files of a table have the same columns, each once, in any order.

    Raises:
        DataError: if a file has others than the first one, `names`, or one twice.
    """
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        raise DataError(f"{file}: several columns are called {twice[0]!r}: rename them")
    if set(found) != set(names):
        raise DataError(
            f"{file}: its columns are {listed(found)}, those of {first.name} are {listed(names)}"
        )
