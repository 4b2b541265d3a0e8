"""Tables: chosen columns, or all numeric ones, as float64 rows.

Rows may have a group, such as the photograph that a patch is from, in a column named `group`, and a
weight in a column that is named as such. Neither is ever one of the columns of a model.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from impflow_zoo.data.columns import GROUP, Columns, in_order
from impflow_zoo.data.csv_files import read_csv, refuse_missing_header, separator_hint
from impflow_zoo.data.frames import IN_MEMORY, as_frame, has_names, in_memory
from impflow_zoo.data.json_files import read_json
from impflow_zoo.data.loading import find_table, named_as
from impflow_zoo.data.names import listed, shortened
from impflow_zoo.data.parquet_files import read_parquet
from impflow_zoo.data.source import DataError, LeftOutWarning, TableSource
from impflow_zoo.data.weights import weighted

__all__ = ["GROUP", "open_table", "read_columns"]

_READERS = {".csv": read_csv, ".json": read_json, ".jsonl": read_json, ".parquet": read_parquet}
_LEFT_BY_PANDAS = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # its index, saved as a column


def open_table(
    dataset: Any,
    split: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    features: int | None = None,
    revision: str | None = None,
    weights: str | None = None,
) -> TableSource:
    """Open a table.

    Arguments:
        dataset: Hub id, local folder, or single `.parquet`, `.csv`, `.json` or `.jsonl` file; or a
            table in memory: a DataFrame or a `datasets.Dataset`, or an array or tensor with shape
            `(N, D)`, whose columns are those that are named, in this order.
        split: name of the split; None uses the whole of a set with one split.
        columns: the columns to take, in this order. If none are named, all numeric ones are taken
            in the order of the file, except `group` and an index saved by pandas, and a warning
            names the others. Columns called x0, x1, ... are taken in the order of these names.
        features: number of columns that are needed if none are named; None takes any number.
        revision: branch, tag or commit of a Hub set.
        weights: the column that holds the weights of the rows. Rows of weight zero are left out.

    Returns:
        The rows as float64. ``columns`` of the source names them. If there is a column `group`, of
        whole numbers or text, ``groups`` numbers its values from 0 in the order of the rows.

    Raises:
        DataError: in one line, for data that cannot be used. A set, split or column does not exist.
            A column that is named is not numeric, or holds whole numbers above 2^53. The table has
            no rows, no numeric column, or another number of columns than `features`. A value is
            missing, NaN or infinite. A row has no group. A weight is missing or negative. The rows
            of a CSV file do not fit its header. The table is above the limits of
            `impflow_zoo.data.limits`. `dataset` is of another type.
    """
    import numpy

    if weights is not None and weights in (columns or ()):
        raise DataError(
            f"column {weights!r} holds the weights of the rows, a model cannot take it: name "
            "another column for one of the two"
        )
    dataset = as_frame(dataset)
    kept = in_memory(dataset, columns or ())
    if kept is not None:
        name, table = IN_MEMORY, kept
    elif not isinstance(dataset, str | os.PathLike):
        raise DataError(
            f"data of type {type(dataset).__name__}: a Hub id, folder, file, toy:NAME, DataFrame, "
            "Dataset of one split or array of numbers is needed"
        )
    else:
        asked = (*columns, *([] if weights is None else [weights])) if columns else None
        name, table = read_columns(dataset, split, revision=revision, columns=asked)
    table = weighted(table, weights, name)
    if kept is None and not columns:
        refuse_missing_header(table.names, name)
    chosen = _checked(columns, table, name) if columns else _numeric(table, name, features)
    values = numpy.column_stack([table.numbers[column] for column in chosen])
    groups = None if table.groups is None else torch.from_numpy(table.groups)
    counts = None if table.weights is None else torch.from_numpy(table.weights)
    named = kept is None or has_names(dataset)
    rows = torch.from_numpy(values)
    return TableSource(name, rows, chosen, named=named, groups=groups, weights=counts)


def read_columns(
    dataset: str | os.PathLike[str],
    split: str | None = None,
    *,
    revision: str | None = None,
    columns: Sequence[str] | None = None,
) -> tuple[str, Columns]:
    """The name of a split in messages, and its columns, whole or those that are named.

    Arguments:
        dataset, split, revision, columns: as in `open_table`; no tables in memory.

    Raises:
        DataError: for a set or split that does not exist or cannot be read.
    """
    found = find_table(dataset, split, revision=revision)
    read = _READERS[found.files[0].suffix.lower()]
    with named_as(os.fspath(dataset), found.folder):
        return found.name, read(found.files, found.name, columns or None)


def _numeric(table: Columns, name: str, features: int | None) -> list[str]:
    """The columns that are numbers; a warning names the others."""
    if hint := separator_hint(table.names):
        raise DataError(f"{name}: the columns are {listed(table.names)}{hint}")
    indexes = {c: "has no name, as an index" for c in table.names if _LEFT_BY_PANDAS.fullmatch(c)}
    reasons = {c: reason for c, reason in {**table.reasons, **indexes}.items() if c != GROUP}
    chosen = [column for column in table.names if column not in reasons and column != GROUP]
    unused = shortened([f"{column!r} {reason}" for column, reason in reasons.items()])
    if not chosen:
        raise DataError(f"{name}: no numeric column: {unused or 'it has none'}")
    if features not in (None, len(chosen)):
        hint = f"; not used: {unused}" if unused else ""
        raise DataError(
            f"{name}: rows of shape [{len(chosen)}], the model takes [{features}]{hint}"
        )
    if unused:
        warnings.warn(
            f"{name}: columns that are not used: {unused}; name the columns to use in "
            "config.columns",
            LeftOutWarning,
            stacklevel=3,
        )
    return in_order(chosen)


def _checked(columns: Sequence[str], table: Columns, name: str) -> list[str]:
    if GROUP in columns:
        raise DataError(
            f"{name}: column {GROUP!r} tells which rows belong together, a model cannot take it: "
            "rename it if it is a feature"
        )
    known = set(table.names)
    missing = [column for column in columns if column not in known]
    if missing:
        refuse_missing_header(table.names, name)
        raise DataError(
            f"{name}: no column {listed(missing)}, only {listed(table.names)}"
            f"{separator_hint(table.names)}"
        )
    for column, reason in table.reasons.items():
        if column in columns:
            raise DataError(f"{name}: column {column!r} {reason}")
    return list(columns)
