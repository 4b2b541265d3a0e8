"""Tables of any kind, read once and whole: files, sets of the Hub, toys, DataFrames, arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from impflow_zoo.data import DataError, UnknownSplitError, is_toy, open_source
from impflow_zoo.data.columns import Columns
from impflow_zoo.data.csv_files import refuse_missing_header, separator_hint
from impflow_zoo.data.frames import IN_MEMORY, as_frame, in_memory
from impflow_zoo.data.names import listed
from impflow_zoo.data.source import TableSource
from impflow_zoo.data.tables import read_columns
from impflow_zoo.data.weights import weighted

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


def read_table(data: Any, weights: str | None = None) -> Table:
    """Read a table.

    Arguments:
        data: a path, Hub id or `toy:NAME`; a DataFrame; an array or tensor with shape `(N, D)`,
            whose columns are called x0, x1, ...
        weights: the column that holds the weights of the rows; None counts all alike.

    Raises:
        DataError: if there is no such data, or they are no table, or the weights are none.
    """
    table = _read(data)
    splits = {
        split: weighted(columns, weights, f"{table.name}{split and f', split {split}'}")
        for split, columns in table.splits.items()
    }
    return Table(table.name, splits)


def _read(data: Any) -> Table:
    if not isinstance(data, str | os.PathLike):
        source = in_memory(as_frame(data))
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
    return Table(name, _splits(name))


def _splits(name: str) -> dict[str, Columns]:
    """The one split of a set, or its splits to train on, to validate on and to test on."""
    try:
        return {"": _columns(name)}
    except UnknownSplitError:
        found = {"train": _columns(name, "train")}
    for split in ("validation", "test"):
        with suppress(UnknownSplitError):
            found[split] = _columns(name, split)
    return found


def _columns(dataset: str, split: str | None = None) -> Columns:
    name, columns = read_columns(dataset, split)
    refuse_missing_header(columns.names, name)
    if hint := separator_hint(columns.names):
        raise DataError(f"{name}: the columns are {listed(columns.names)}{hint}")
    return columns
