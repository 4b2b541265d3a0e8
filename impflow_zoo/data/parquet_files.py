"""Parquet files: their columns, and how much they unfold to.

A parquet file may keep a text or an image once and refer to it a million times. So texts are read
as numbers of entries of a dictionary, as the file keeps them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from impflow_zoo.data.columns import (
    GROUP,
    TOO_LARGE,
    Columns,
    numbered,
    refuse_other_columns,
    text_cell,
)
from impflow_zoo.data.limits import check_table, check_unfolded
from impflow_zoo.data.source import DataError

if TYPE_CHECKING:
    import numpy
    import pyarrow
    from pyarrow.parquet import ParquetFile

__all__ = ["flat_columns", "read_parquet", "unfolded"]

_LOOKED_AT = 1000  # rows, for a text that is no number
_AT_ONCE = 10_000_000  # numbers
_BUFFER = 1 << 20  # bytes of a column that are fetched at once


def read_parquet(files: Sequence[Path], name: str, wanted: Sequence[str] | None) -> Columns:
    """The columns of parquet files, one below the other. Only those asked for are read.

    Arguments:
        files: the files, which have the same columns.
        name: the name of the table, for messages.
        wanted: the columns asked for; None asks for all. Names that the files do not have are
            passed over.

    Raises:
        DataError: if a file is damaged; if columns differ; if the table is larger than the limits.
    """
    names: list[str] = []
    size = 0
    for file in files:
        with _opened(file) as parquet:
            found = parquet.schema_arrow.names
            names = names or found
            refuse_other_columns(found, names, file, files[0])
            size += _rows(parquet)
    known = set(names)
    asked = [column for column in dict.fromkeys(wanted or names) if column in known]
    reasons = _reasons(files, asked)
    plain = [column for column in asked if column not in reasons]
    check_table(size, len(plain), name)
    parts: dict[str, list[numpy.ndarray]] = {column: [] for column in plain}
    for file in files:
        _read_numbers(file, parts, reasons)
    return Columns(
        tuple(names),
        {column: _joined(parts[column]) for column in plain if column not in reasons},
        reasons,
        _groups(files, name) if GROUP in known else None,
    )


def flat_columns(file: str | Path) -> list[str]:
    """The columns without lists, whose size nothing tells before they are read."""
    with _opened(file) as parquet:
        leaves = [parquet.schema.column(i) for i in range(len(parquet.schema))]
        lists = {leaf.path.split(".")[0] for leaf in leaves if leaf.max_repetition_level}
        return [name for name in parquet.schema_arrow.names if name.split(".")[0] not in lists]


def unfolded(file: str | Path, known: int = 0) -> Iterator[tuple[int, int]]:
    """The bytes of each part of a file, and of its values in memory, at most, without lists.

    An entry of a dictionary may stand for every value of its part of the file.

    Arguments:
        file: a path, or an address of the Hub, of which little is fetched.
        known: how many bytes may be stated without a look at the entries of dictionaries: a part
            whose values cannot take more is not looked at.
    """
    with _opened(file) as parquet:
        for i in range(parquet.metadata.num_row_groups):
            group, total = parquet.metadata.row_group(i), 0
            for j in range(group.num_columns):
                leaf, chunk = parquet.schema.column(j), group.column(j)
                longest = leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else 8
                if leaf.physical_type == "BYTE_ARRAY" and leaf.max_repetition_level == 0:
                    longest = max(8, chunk.total_uncompressed_size)
                    if group.num_rows * longest > known:
                        packed, size = chunk.total_compressed_size, chunk.total_uncompressed_size
                        check_unfolded(packed, size, str(file))  # before the look
                        longest = max(8, _longest(file, i, leaf.path))
                total += chunk.total_uncompressed_size + group.num_rows * longest
            sizes = (group.column(j).total_compressed_size for j in range(group.num_columns))
            yield sum(sizes), total


@contextmanager
def _opened(file: str | Path, texts: Sequence[str] = ()) -> Iterator[ParquetFile]:
    """A file; its errors and those of its content are told in one line.

    Arguments:
        file: the path, or an address of the Hub.
        texts: columns to read as a dictionary and its numbers.
    """
    import fsspec
    from pyarrow.parquet import ParquetFile

    source = fsspec.open(file, "rb") if "://" in str(file) else nullcontext(file)
    try:
        with (
            source as opened,
            ParquetFile(opened, read_dictionary=list(texts), buffer_size=_BUFFER) as parquet,
        ):
            yield parquet
    except DataError:
        raise
    except Exception as error:  # of any kind, for a file that is damaged on purpose
        reason = str(error).partition("\n")[0]
        raise DataError(f"cannot load dataset {str(file)!r}: {reason}") from None


def _rows(parquet: ParquetFile) -> int:
    metadata = parquet.metadata
    return sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))


def _longest(file: str | Path, group: int, path: str) -> int:
    """The length of the longest entry of a column's dictionary, which comes with its first row."""
    import pyarrow.compute
    from pyarrow import types

    with _opened(file, [path]) as parquet:
        first = next(parquet.iter_batches(1, row_groups=[group], columns=[path]), None)
        if first is None:
            return 0
        values = first.column(0)
        while types.is_struct(values.type):
            values = values.field(0)
        if types.is_decimal(values.type):
            return 32
        lengths = pyarrow.compute.binary_length(values.dictionary)
        return pyarrow.compute.max(lengths).as_py() or 0


def _reasons(files: Sequence[Path], columns: Sequence[str]) -> dict[str, str]:
    """Why some columns are no numbers."""
    reasons: dict[str, str] = {}
    for number, file in enumerate(files):
        with _opened(file) as parquet:
            schema = parquet.schema_arrow
        classes = _class_labels(schema)
        kinds = {column: schema.field(column).type for column in columns if column not in reasons}
        others = {c: kind for c, kind in kinds.items() if c in classes or not _is_number(kind)}
        for column, kind in others.items():
            what = "a class label" if column in classes else str(kind)[:40]
            reasons[column] = f"is not numeric, it is {what}"
        if number == 0:
            reasons |= _first_texts(file, [c for c, kind in others.items() if _is_text(kind)])
    return reasons


def _is_number(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind))


def _class_labels(schema: pyarrow.Schema) -> set[str]:
    """The columns of numbers that stand for names, as `datasets` writes them."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {c for c, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return set()


def _first_texts(file: Path, columns: Sequence[str]) -> dict[str, str]:
    """In which of the first rows columns of text hold one that is no number."""
    found: dict[str, str] = {}
    with _opened(file, columns) as parquet:
        batches = parquet.iter_batches(_LOOKED_AT, columns=columns) if columns else iter(())
        for first in itertools.islice(batches, 1):
            for column in columns:
                texts = enumerate(cell.as_py() for cell in first[column])
                others = (t for t in texts if t[1] is not None and not _says_a_number(t[1]))
                for row, text in itertools.islice(others, 1):
                    found[column] = text_cell(row, text)
    return found


def _says_a_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_numbers(
    file: Path, parts: Mapping[str, list[numpy.ndarray]], reasons: dict[str, str]
) -> None:
    """Add the numbers of a file to those of its columns, some columns at a time.

    Arguments:
        file: the path.
        parts: float64 arrays by column.
        reasons: receives why a column is none after all.
    """
    import pyarrow

    with _opened(file) as parquet:
        step, columns = max(1, _AT_ONCE // max(1, _rows(parquet))), list(parts)
        for i in range(0, len(columns), step):
            table = parquet.read(columns=columns[i : i + step])
            for column in columns[i : i + step]:
                try:
                    parts[column].append(table[column].cast(pyarrow.float64()).to_numpy())
                except pyarrow.ArrowInvalid:  # a cast of whole numbers is exact or fails
                    reasons[column] = TOO_LARGE


def _joined(parts: list[numpy.ndarray]) -> numpy.ndarray:
    import numpy

    return parts[0] if len(parts) == 1 else numpy.concatenate(parts)


def _groups(files: Sequence[Path], name: str) -> numpy.ndarray:
    """The groups of the rows, numbered."""
    import pandas
    import pyarrow
    from pyarrow import types

    tables: list[pyarrow.Table] = []
    for file in files:
        with _opened(file) as parquet:
            kind = parquet.schema_arrow.field(GROUP).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if types.is_floating(kind) or types.is_decimal(kind) or types.is_nested(kind):
            return numbered(pandas.Series(dtype=object), name, labels=False)
        with _opened(file, [GROUP]) as parquet:
            tables.append(parquet.read(columns=[GROUP]))
    try:
        joined = pyarrow.concat_tables(tables, promote_options="permissive")
        groups = joined.unify_dictionaries()[GROUP].to_pandas()
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
        raise DataError(f"{name}: column {GROUP!r} has another type in each file") from None
    return numbered(groups, name, labels=True)


def _is_text(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))
