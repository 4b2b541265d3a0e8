"""Tables through `datasets`: chosen columns, or all numeric ones, as float64 rows.

Rows may have a group, such as the photograph that a patch is from, in a column named `group`. It is
never one of the columns of a model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from impflow_zoo.data.loading import load_split
from impflow_zoo.data.source import DataError, TableSource
from impflow_zoo.data.spreadsheets import plain_name

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["GROUP", "open_table"]

GROUP = "group"  # the column that tells which rows belong together
_NUMERIC = re.compile(r"u?int\d+|float\d+")
_LABELS = re.compile(r"u?int\d+|(large_)?string")  # whole numbers or text
_REPEATED = re.compile(r"^(-?\d+\.\d+)\.\d+$")  # pandas tells equal names apart
_LEFT_BY_PANDAS = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # its index, saved as a column


def open_table(
    dataset: str | os.PathLike[str],
    split: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    revision: str | None = None,
) -> TableSource:
    """Open a table.

    Arguments:
        dataset: Hub id, local folder, or single `.parquet`, `.csv`, `.json` or `.jsonl` file.
        split: name of the split; None uses the whole of a set with one split.
        columns: the columns to take, in this order. None takes all numeric ones in the order of the
            file, except `group` and an index saved by pandas.
        revision: branch, tag or commit of a Hub set.

    Returns:
        The rows as float64. ``columns`` of the source names them. If there is a column `group`, of
        whole numbers or text, ``groups`` numbers its values from 0 in the order of the rows.

    Raises:
        DataError: for a set, split or column that does not exist, a column that is not numeric, a
            table with no numeric column or no rows, a value that is missing, NaN or infinite, or a
            row without a group.
    """
    data, name = load_split(dataset, split, revision=revision)
    data = _with_plain_names(data, name)
    chosen = _numeric_columns(data, name) if columns is None else _checked(columns, data, name)
    values = torch.tensor(data.select_columns(chosen).to_pandas().to_numpy("float64"))
    return TableSource(name, values, chosen, named=True, groups=_groups(data, name))


def _groups(data: Dataset, name: str) -> Tensor | None:
    """The groups of the rows, numbered in the order in which they appear, if they have any."""
    if GROUP not in data.column_names:
        return None
    labels = data.select_columns([GROUP]).to_pandas()[GROUP]
    found = f"{name}: column {GROUP!r} tells which rows belong together"
    if labels.isna().any():
        raise DataError(f"{found}, and row {labels.isna().argmax()} has none: fill or rename it")
    if not _LABELS.fullmatch(data.features[GROUP].dtype):
        raise DataError(f"{found}, by whole numbers or text: rename it if it is a quantity")
    return torch.from_numpy(labels.factorize()[0])


def _with_plain_names(data: Dataset, name: str) -> Dataset:
    """The table without the quotes that keep names of columns from being formulas."""
    names = {column: plain_name(column) for column in data.column_names}
    if [*names] == [*names.values()]:
        return data
    if len({*names.values()}) < len(names):
        raise DataError(f"{name}: a column is named twice among {', '.join(names.values())}")
    return data.rename_columns(names)


def _numeric_columns(data: Dataset, name: str) -> list[str]:
    _refuse_missing_header(data.column_names, name)
    if hint := _separator_hint(data.column_names):
        raise DataError(f"{name}: the columns are {', '.join(data.column_names)}{hint}")
    chosen = [
        column
        for column in data.column_names
        if _is_numeric(data, column) and not _no_feature(column)
    ]
    if not chosen:
        raise DataError(
            f"{name}: no numeric column, only {', '.join(data.column_names) or 'nothing'}"
        )
    return chosen


def _no_feature(column: str) -> bool:
    return column == GROUP or _LEFT_BY_PANDAS.fullmatch(column) is not None


def _checked(columns: Sequence[str], data: Dataset, name: str) -> list[str]:
    if GROUP in columns:
        raise DataError(
            f"{name}: column {GROUP!r} tells which rows belong together, a model cannot take it: "
            "rename it if it is a feature"
        )
    missing = [column for column in columns if column not in data.column_names]
    if missing:
        _refuse_missing_header(data.column_names, name)
        raise DataError(
            f"{name}: no column {', '.join(missing)}, only {', '.join(data.column_names)}"
            f"{_separator_hint(data.column_names)}"
        )
    for column in columns:
        if not _is_numeric(data, column):
            why = _first_text(data, column) or f", it is {str(data.features[column])[:40]}"
            raise DataError(f"{name}: column {column!r} is not numeric{why}")
    return list(columns)


def _separator_hint(names: Sequence[str]) -> str:
    """A CSV file with another separator comes as one column whose name has them all."""
    for mark in (";", "\t"):
        if any(mark in name for name in names):
            return f" (columns seem to be separated by {mark!r}: a CSV file needs commas)"
    return ""


def _first_text(data: Dataset, column: str) -> str:
    """Where the first value stands that is no number: often one stray cell in a CSV file."""
    for row, value in enumerate(data[column]):
        try:
            float(value)
        except (TypeError, ValueError):
            return f", row {row} holds {str(value)[:40]!r}"
    return ""


def _is_numeric(data: Dataset, column: str) -> bool:
    feature = data.features[column]
    plain = type(feature).__name__ == "Value"  # class labels have a type of numbers, too
    return plain and _NUMERIC.fullmatch(feature.dtype) is not None


def _refuse_missing_header(names: Sequence[str], name: str) -> None:
    """A CSV file without a header would lose its first row to the names, without a word."""
    try:
        numbers = [float(_REPEATED.sub(r"\1", column)) for column in names]
    except ValueError:
        return
    if numbers and numbers != [float(i) for i in range(len(numbers))]:
        raise DataError(
            f"{name}: the column names are the numbers {', '.join(names[:3])}...: "
            "the file seems to lack its header, add a first line with names"
        )
