"""Tables of any kind, read once and whole: files, sets of the Hub, toys, DataFrames, arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from impflow_zoo.data import DataError, UnknownSplitError, is_toy, open_source
from impflow_zoo.data.columns import Columns, columns_of
from impflow_zoo.data.csv_files import read_columns, refuse_missing_header, separator_hint
from impflow_zoo.data.frames import IN_MEMORY, in_memory
from impflow_zoo.data.loading import FoundSplit, find_split
from impflow_zoo.data.source import TableSource

__all__ = ["Table", "read_table"]


@dataclass(frozen=True)
class Table:
    """A table with missing values, and with columns that are no numbers.

    Arguments:
        name: its name in messages.
        splits: its columns by split; the one split of a table that has no splits is called `""`.
    """

    name: str
    splits: Mapping[str, Columns]

    @property
    def first(self) -> Columns:
        """The columns of the split to train on."""
        return next(iter(self.splits.values()))


def read_table(data: Any) -> Table:
    """Read a table.

    Arguments:
        data: a path, Hub id or `toy:NAME`; a DataFrame; an array or tensor with shape `(N, D)`,
            whose columns are called x0, x1, ...

    Raises:
        DataError: if there is no such data, or they are no table.
    """
    if not isinstance(data, str | os.PathLike):
        source = in_memory(data)
        if source is None:
            raise DataError(
                f"data of type {type(data).__name__}: a file, Hub id, toy:NAME, DataFrame or "
                "NumPy array is needed"
            )
        return Table(IN_MEMORY, {"": source})
    name = os.fspath(data)
    if is_toy(name):
        toy = open_source(name)
        assert isinstance(toy, TableSource)
        values = toy.rows(range(len(toy))).numpy()
        numbers = {column: values[:, i] for i, column in enumerate(toy.columns)}
        return Table(name, {"": Columns(toy.columns, numbers, {})})
    return Table(name, {split: _columns(found) for split, found in _splits(name).items()})


def _splits(name: str) -> dict[str, FoundSplit]:
    """The one split of a set, or its splits to train on, to validate on and to test on."""
    try:
        return {"": find_split(name)}
    except UnknownSplitError:
        found = {"train": find_split(name, "train")}
    for split in ("validation", "test"):
        with suppress(UnknownSplitError):
            found[split] = find_split(name, split)
    return found


def _columns(found: FoundSplit) -> Columns:
    if found.csv is not None:
        columns = read_columns(found.csv, found.name, None)
    else:
        columns = columns_of(found.data, found.name, None)
    refuse_missing_header(columns.names, found.name)
    if hint := separator_hint(columns.names):
        raise DataError(f"{found.name}: the columns are {', '.join(columns.names)}{hint}")
    return columns
