"""JSON files of tables: one object per line, or a list of objects. Each object is a row."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import impflow_zoo.data.limits as limits
from impflow_zoo.data.columns import EXACT, GROUP, TOO_LARGE, Columns, numbered, text_cell
from impflow_zoo.data.csv_files import lines_of, not_utf8
from impflow_zoo.data.source import DataError

if TYPE_CHECKING:
    import numpy

__all__ = ["read_json"]

_AT_ONCE = 10_000  # rows
_COMMA = re.compile(r"\s*([,\]]?)\s*")
_NO_TEXT = re.compile("[\ud800-\udfff]")  # halves of characters, which JSON may escape
_START = re.compile(r"\s*\[\s*")


def read_json(files: Sequence[Path], name: str, wanted: Sequence[str] | None) -> Columns:
    """The columns of JSON files, one below the other.

    The columns are those of the first row; a value that a later row lacks is missing.

    Arguments:
        files: the files.
        name: the name of the table, for messages.
        wanted: the columns asked for; None asks for all. Names that the files do not have are
            passed over.

    Raises:
        DataError: if a file is not UTF-8 text or not JSON; if a row is no object, or has a column
            that the first one lacks; if the table is larger than the limits.
    """
    rows = itertools.chain.from_iterable(map(_objects, files))
    names: dict[str, None] = {}
    columns: dict[str, _Column] = {}
    groups: list[Any] = []
    count = 0
    while some := list(itertools.islice(rows, _AT_ONCE)):
        if not names:
            names = dict.fromkeys(some[0])
            if any(map(_NO_TEXT.search, names)):
                raise DataError(f"{name}: the name of a column is no text")
            asked = set(names if wanted is None else wanted)
            columns = {key: _Column() for key in names if key in asked}
        for row, cells in enumerate(some, count):
            if not names.keys() >= cells.keys():
                late = next(key for key in cells if key not in names)
                raise DataError(
                    f"{name}: row {row} has a column {late!r}, the first row has none: give all "
                    "rows the same columns"
                )
        for key, column in columns.items():
            column.extend([cells.get(key) for cells in some], count)
        if GROUP in names:
            groups += [cells.get(GROUP) for cells in some]
        count += len(some)
        limits.check_table(count, sum(not c.reason for c in columns.values()), name)
    if count == 0:
        raise DataError(f"{name}: the set is empty, it has no rows")
    return Columns(
        tuple(names),
        {key: column.numbers() for key, column in columns.items() if not column.reason},
        {key: column.reason for key, column in columns.items() if column.reason},
        _groups(groups, name) if GROUP in names else None,
    )


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file."""
    row = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            listed = file.read(1000).lstrip().startswith("[")
            file.seek(0)
            for value in _items(file, path) if listed else _lines(file, path):
                if not isinstance(value, dict):
                    raise DataError(f"{path}: row {row} is no object, such as {{'x': 1.5}}")
                yield value
                row += 1
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except RecursionError:
        raise DataError(f"{path}: row {row} has brackets within brackets without end") from None
    except json.JSONDecodeError as error:
        hint = "write one object per line, or a list of objects"
        raise DataError(f"{path}: row {row} is no JSON: {error}: {hint}") from None
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: row {row} has a number of too many digits") from None


def _lines(file: TextIO, path: Path) -> Iterator[Any]:
    """The values that stand one per line."""
    for line in lines_of(file, path):
        if line.strip():
            yield json.loads(line, object_pairs_hook=_unique)


def _items(file: TextIO, path: Path) -> Iterator[Any]:
    """The values of a list."""
    if path.stat().st_size > limits.TABLE_BYTES:
        raise DataError(f"{path}: a list of more than {limits.TABLE_BYTES:,} bytes")
    text = file.read()
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    start = _START.match(text)
    assert start is not None
    place, comma = start.end(), ","
    if text[place : place + 1] == "]":
        return
    while comma == ",":
        value, place = decoder.raw_decode(text, place)
        yield value
        found = _COMMA.match(text, place)
        assert found is not None
        place, comma = found.end(), found[1]
    if comma != "]" or place < len(text):
        raise json.JSONDecodeError("',' or ']' expected", text, place)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise json.JSONDecodeError("a name stands twice in an object", "", 0)
    return found


def _groups(cells: list[Any], name: str) -> numpy.ndarray:
    """Groups, numbered; all are whole numbers, or text, or truth values."""
    import pandas

    kinds = {type(cell) for cell in cells if cell is not None}
    return numbered(
        pandas.Series(cells, dtype=object), name, labels=kinds in ({int}, {str}, {bool})
    )


class _Column:
    """The numbers of a column, up to the first cell that is none."""

    def __init__(self) -> None:
        self.reason = ""
        self._parts: list[numpy.ndarray] = []

    def extend(self, cells: Sequence[Any], start: int) -> None:
        """Add cells, the first of which is in row `start`."""
        import numpy

        if not self.reason:
            self._parts.append(numpy.fromiter(self._numbers(cells, start), float))
        if self.reason:
            self._parts.clear()

    def numbers(self) -> numpy.ndarray:
        """The numbers, float64."""
        import numpy

        return numpy.concatenate(self._parts) if self._parts else numpy.empty(0)

    def _numbers(self, cells: Sequence[Any], start: int) -> Iterator[float]:
        for row, cell in enumerate(cells, start):
            if cell is None:
                yield math.nan
            elif type(cell) is float:
                yield cell
            elif type(cell) is not int:
                self.reason = text_cell(row, cell)
                return
            elif abs(cell) > EXACT:
                self.reason = TOO_LARGE
                return
            else:
                yield float(cell)
