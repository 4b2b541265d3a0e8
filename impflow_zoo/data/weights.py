"""Weights of the rows of a table: a column that counts rows, and that no model takes."""

from __future__ import annotations

import difflib
from dataclasses import replace

from impflow_zoo.data.columns import GROUP, Columns
from impflow_zoo.data.names import listed
from impflow_zoo.data.source import DataError

__all__ = ["NoWeightsError", "require_name", "weighted"]

_LARGEST = 1e100  # what sums of squares of weights may be made of, and its inverse


class NoWeightsError(DataError):
    """A table has no column of the name of its weights."""


def require_name(column: object) -> None:
    """A `DataError` for weights that are not the name of a column."""
    if not isinstance(column, str):
        raise DataError(
            f"weights of type {type(column).__name__}: the name of a column of the table is needed"
        )


def weighted(table: Columns, column: str | None, name: str) -> Columns:
    """The table with a column as the weights of its rows, and without the rows of weight zero.

    Arguments:
        table: the columns.
        column: name of the column of weights; None leaves the table as it is.
        name: the name of the table, for messages.

    Raises:
        DataError: if there is no such column, or it holds something else than finite numbers of at
            least zero, or zeros alone, or the squares of its numbers are too large or small.
    """
    if column is None:
        return table
    require_name(column)
    import numpy
    import pandas

    found = f"{name}: column {column!r} holds the weights of the rows"
    if column == GROUP:
        raise DataError(f"{found}, so it cannot tell which rows belong together: rename it")
    if column in table.reasons:
        raise DataError(f"{found}, and it {table.reasons[column]}")
    if column not in table.numbers:
        close = difflib.get_close_matches(column, table.names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {listed(table.names)}"
        raise NoWeightsError(f"{name}: no column {column!r} for the weights of the rows; {hint}")
    weights = table.numbers[column]
    wrong = ~(numpy.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{found}, and row {row} has {weights[row]:g}: numbers of at least 0 are needed"
        )
    if not weights.any():
        raise DataError(f"{found}, and all of them are zero")
    largest = float(weights.max())
    if not 1 / _LARGEST <= largest <= _LARGEST:
        raise DataError(f"{found}, up to {largest:.1e}: divide them by the largest")
    kept, groups = weights > 0, table.groups
    return replace(
        table,
        names=tuple(c for c in table.names if c != column),
        numbers={c: v[kept] for c, v in table.numbers.items() if c != column},
        groups=None if groups is None else pandas.factorize(groups[kept])[0],
        weights=weights[kept],
    )
