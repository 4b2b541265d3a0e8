"""Rows to train on, to validate on and to test on, and the files that keep them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from impflow_zoo.data import DataError, TableSource
from impflow_zoo.data.columns import GROUP, Columns
from impflow_zoo.data.outliers import refuse_absurd
from impflow_zoo.fitting.columns import Findings
from impflow_zoo.fitting.noise import check_bounds
from impflow_zoo.fitting.reading import Table
from impflow_zoo.models.writing import write_whole

if TYPE_CHECKING:
    import numpy

__all__ = ["SPLITS", "split", "write_splits"]

SPLITS = ("train", "validation", "test")
_PART, _MOST = 0.1, 10_000  # of the rows, and rows, in validation and in test


def split(
    table: Table, findings: Findings, seed: int, *, test: bool = True
) -> dict[str, TableSource]:
    """The rows of each split, in a random order.

    Splits that the table has are kept; those that it lacks are taken from its rows at random, a
    tenth of them, 10,000 at most. Rows of a group stay together, and the test has two groups.

    Arguments:
        table: the table.
        findings: its columns.
        seed: of the order.
        test: whether to hold test rows out.

    Raises:
        DataError: if a split lacks a column or is empty, if the test has one row or one group, or
            if a value is absurd for its column.
        ModelError: if a value is not within the bounds that the user states.
    """
    import numpy

    found: dict[str, TableSource] = {}
    own = {name: _rows(table, name, findings) for name in table.splits}
    (values, groups, weights), *_ = own.values()
    wanted = SPLITS if test else SPLITS[:2]
    lacking = [name for name in wanted[1:] if name not in own]
    labels = numpy.arange(len(values)) if groups is None else groups
    generator = numpy.random.default_rng(seed)
    unique, place = numpy.unique(labels, return_inverse=True)
    order = numpy.argsort(generator.permutation(len(unique))[place], kind="stable")
    size = min(_MOST, max(2, round(_PART * len(values))))
    start, kinds = 0, labels[order]
    for name in (*lacking, "train"):
        least = _end_of_group(kinds, start + 1) + 1 if name == "test" else 0  # of two groups
        end = len(order) if name == "train" else _end_of_group(kinds, max(start + size, least))
        part = generator.permutation(order[start:end])
        extras = (None if one is None else one[part] for one in (groups, weights))
        found[name] = _source(name, findings, values[part], *extras)
        start = end
    for name in (name for name in wanted[1:] if name in own):
        found[name] = _source(name, findings, *own[name])
    if test:
        _check_test(found["test"], table.name)
    return {name: found[name] for name in wanted}


def _check_test(rows: TableSource, name: str) -> None:
    """Refuse rows that are too few for the error of a mean, before models are trained."""
    groups = rows.groups
    kind, count = ("row", len(rows)) if groups is None else ("group", len(groups.unique()))
    if count < 2:
        raise DataError(
            f"{name}: the test has one {kind}, so its score would have no error: hold out more"
        )


def _end_of_group(labels: numpy.ndarray, end: int) -> int:
    """The first place at or after `end` where another group begins."""
    while 0 < end < len(labels) and labels[end] == labels[end - 1]:
        end += 1
    return end


def _rows(
    table: Table, name: str, findings: Findings
) -> tuple[numpy.ndarray, numpy.ndarray | None, numpy.ndarray | None]:
    """The rows of a split without missing values, their groups and their weights."""
    import numpy

    columns: Columns = table.splits[name]
    where = f"{table.name}, split {name}" if name else table.name
    for column in findings.names:
        if column not in columns.numbers:
            reason = columns.reasons.get(column, "is missing")
            raise DataError(f"{where}: column {column!r} {reason}")
    values = numpy.column_stack([columns.numbers[column] for column in findings.names])
    whole = numpy.isfinite(values).all(axis=1)
    remedy = "correct it, or drop the row"
    if whole.any():
        refuse_absurd(values[whole], findings.names, where, remedy, numpy.flatnonzero(whole))
    check_bounds(findings, values, whole)
    groups, weights = (
        None if one is None else one[whole] for one in (columns.groups, columns.weights)
    )
    return values[whole], groups, weights


def _source(
    name: str,
    findings: Findings,
    values: numpy.ndarray,
    groups: numpy.ndarray | None,
    weights: numpy.ndarray | None,
) -> TableSource:
    if not len(values):
        few = "rows"
        if groups is not None:
            few = f"groups, of the column {GROUP!r}: rename it if it names none"
        raise DataError(f"no rows are left for {name}: too few {few}")
    numbers = None if groups is None else torch.from_numpy(groups.astype("int64"))
    rows = torch.from_numpy(values.copy())
    return TableSource(
        f"data ({name})",
        rows,
        findings.names,
        named=True,
        groups=numbers,
        weights=None if weights is None else torch.from_numpy(weights.copy()),
    )


def write_splits(
    splits: Mapping[str, TableSource], folder: Path, weights: str | None = None
) -> None:
    """Write each split as a parquet file of its name; `weights` names the column of weights."""
    import pandas

    folder.mkdir(parents=True, exist_ok=True)
    for name, source in splits.items():
        frame = pandas.DataFrame(source.rows(range(len(source))).numpy(), columns=source.columns)
        if source.groups is not None:
            frame[GROUP] = source.groups.numpy()
        if source.weights is not None:
            frame[weights] = source.weights.numpy()
        content = io.BytesIO()
        frame.to_parquet(content, index=False)
        write_whole(folder / f"{name}.parquet", content.getvalue())
