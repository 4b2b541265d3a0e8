"""CSV files: the one place that opens them. Every row has a field for each name of the header."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from impflow_zoo.data.columns import (
    EXACT,
    GROUP,
    TOO_LARGE,
    Columns,
    numbered,
    text_cell,
)
from impflow_zoo.data.limits import check_table
from impflow_zoo.data.names import listed
from impflow_zoo.data.source import DataError
from impflow_zoo.data.spreadsheets import plain_name

if TYPE_CHECKING:
    import numpy

__all__ = [
    "lines_of",
    "not_utf8",
    "read_csv",
    "read_rows",
    "refuse_missing_header",
    "separator_hint",
]

_CELLS = 1_000_000  # converted at a time
_LONGEST = 10_000_000  # characters of a line
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")  # characters that no text has
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]{1,4})?")
_MISSING = frozenset({"", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None", "<NA>"})


def read_rows(path: Path) -> Iterator[list[str]]:
    """The header and then the rows of a CSV file, as text. Empty lines are left out.

    A column without a name is called `Unnamed: i`, as pandas calls it. Names have no quote that
    keeps them from being formulas, see `spreadsheets`.

    Raises:
        DataError: if the file is empty or is not UTF-8 text, a name stands twice in the header, a
            row has more or fewer fields than the header, or a quote is not closed.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(lines_of(file, path), strict=True)
            rows = filter(None, reader)
            header = _named(next(rows, []), path)
            yield header
            for number, row in enumerate(rows):
                if len(row) != len(header):
                    hint = ": put quotes around cells that hold a comma, and write 1.5 for 1,5"
                    raise DataError(
                        f"{path}: row {number} (line {reader.line_num}) has {len(row)} fields, the "
                        f"header has {len(header)}{separator_hint(header) or hint}"
                    )
                yield row
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}: check the quotes") from None


def read_csv(files: Sequence[Path], name: str, wanted: Sequence[str] | None) -> Columns:
    """The columns of CSV files, one below the other.

    Arguments:
        files: the files, which have the same header.
        name: the name of the table, for messages.
        wanted: the columns asked for; None asks for all. Names that the files do not have are
            passed over.

    Raises:
        DataError: as `read_rows`; if headers differ; if the table is larger than the limits.
    """
    names: list[str] = []
    columns: dict[str, _Column] = {}
    groups: list[str] = []
    count = 0
    for file in files:
        rows = read_rows(file)
        header = next(rows)
        if not names:
            names = header
            asked = set(names if wanted is None else wanted)
            columns = {c: _Column(place) for place, c in enumerate(names) if c in asked}
        elif header != names:
            raise DataError(
                f"{file}: its columns are {listed(header)}, those of {files[0].name} are "
                f"{listed(names)}"
            )
        while some := list(itertools.islice(rows, max(1, _CELLS // len(names)))):
            cells = list(zip(*some, strict=True))
            for column in columns.values():
                column.extend(cells[column.place], count)
            if GROUP in names:
                groups += cells[names.index(GROUP)]
            count += len(some)
            check_table(count, sum(not c.reason for c in columns.values()), name)
    return Columns(
        tuple(names),
        {name: column.numbers() for name, column in columns.items() if not column.reason},
        {name: column.reason for name, column in columns.items() if column.reason},
        _numbered(groups, name) if GROUP in names else None,
    )


def _numbered(groups: Sequence[str], name: str) -> numpy.ndarray:
    """Groups, numbered. They are quantities if all are numbers, some of which are not whole.

    Numbers are decimal, since float64 would make one group of long ids that differ.
    """
    import pandas

    stripped = [cell.strip() for cell in groups]
    missing = {*_MISSING, "nan", "NaN"}
    cells = pandas.Series([None if cell in missing else cell for cell in stripped], dtype=object)
    numbers = {cell: _decimal(cell) for cell in {*stripped}}
    if None in numbers.values():  # text, or a row without a group
        return numbered(cells, name, labels=True)
    whole = all(number == number.to_integral_value() for number in numbers.values() if number)
    return numbered(cells.map(numbers), name, labels=whole)


def _decimal(cell: str) -> Decimal | None:
    """A number, exactly; None for other text, such as 007 and 1_2."""
    return Decimal(cell) if _NUMBER.fullmatch(cell) else None


def refuse_missing_header(names: Sequence[str], name: str) -> None:
    """A file without a header would lose its first row to the names, without a word.

    Raises:
        DataError: if all names are numbers, other than 0, 1, 2, ...
    """
    try:
        numbers = [float(column) for column in names]
    except ValueError:
        return
    if numbers and numbers != [float(i) for i in range(len(numbers))]:
        raise DataError(
            f"{name}: the column names are the numbers {', '.join(names[:3])}...: "
            "the file seems to lack its header, add a first line with names"
        )


def separator_hint(header: Sequence[str]) -> str:
    """A file with another separator comes as one column whose name has them all."""
    for mark in (";", "\t"):
        if len(header) == 1 and mark in header[0]:
            reading = f"pandas.read_csv(file, sep={mark!r}, decimal=',')"
            return (
                f" (columns seem to be separated by {mark!r}: a CSV file needs commas, and points "
                f"in numbers; {reading} reads this one, and its to_csv writes a CSV file)"
            )
    return ""


def not_utf8(path: Path) -> DataError:
    """The error for a file that is no text, or text in another encoding."""
    return DataError(
        f"{path} is not UTF-8 text: save it as UTF-8, or read it by pandas.read_csv(file, "
        "encoding='latin-1'), or 'utf-16', and write it by to_csv (unpack a compressed file first)"
    )


def lines_of(file: TextIO, path: Path) -> Iterator[str]:
    """The lines of a file, none of which may fill the memory."""
    while line := file.readline(_LONGEST):
        if len(line) == _LONGEST:
            raise DataError(f"{path}: a line is longer than {_LONGEST:,} characters")
        yield line


def _named(header: list[str], path: Path) -> list[str]:
    """The names of a header, each for one column."""
    if not header:
        raise DataError(f"{path}: the file is empty")
    if any(map(_CONTROL.search, header)):
        raise not_utf8(path)
    check_table(0, len(header), str(path))
    names = [plain_name(name) or f"Unnamed: {i}" for i, name in enumerate(header)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        refuse_missing_header(names, str(path))
        raise DataError(f"{path}: several columns are called {twice[0]!r}: rename them")
    return names


class _Column:
    """The numbers of a column, up to the first cell that is none."""

    def __init__(self, place: int) -> None:
        self.place, self.reason = place, ""
        self._parts: list[numpy.ndarray] = []

    def extend(self, cells: Sequence[str], start: int) -> None:
        """Add cells, the first of which is in row `start`."""
        import numpy

        if self.reason:
            return
        try:
            part = numpy.fromiter(map(_number, cells), float, len(cells))
        except ValueError:
            part = numpy.array(self._numbers(cells, start))
        large = numpy.flatnonzero(numpy.abs(part) >= EXACT)
        if any(_is_rounded(cells[i], part[i]) for i in large.tolist()):
            self.reason = TOO_LARGE
        self._parts.append(part)
        if self.reason:
            self._parts.clear()

    def numbers(self) -> numpy.ndarray:
        """The numbers, float64."""
        import numpy

        return numpy.concatenate(self._parts) if self._parts else numpy.empty(0)

    def _numbers(self, cells: Sequence[str], start: int) -> list[float]:
        """The numbers of cells that may be missing; up to the first text, if there is one."""
        found = []
        for row, cell in enumerate(cells, start):
            try:
                found.append(math.nan if cell.strip() in _MISSING else _number(cell))
            except ValueError:
                self.reason = text_cell(row, cell)
                break
        return found


def _number(cell: str) -> float:
    """The number in a cell. Python also reads 12_3 as 123, which may be a code."""
    if "_" in cell:
        raise ValueError("a number has no underscores")
    return float(cell)


def _is_rounded(cell: str, number: float) -> bool:
    """Whether a cell is a whole number that float64 cannot hold."""
    digits = cell.strip().lstrip("+-0")
    return digits.isdigit() and math.isfinite(number) and int(digits) > EXACT
