"""Values that are absurd for their column, such as 1e30 among hundreds: a slip of the pen, or a
mark for a missing value. One of them takes all meaning from a column's mean and spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from impflow_zoo.data.source import DataError, Source, TableSource

if TYPE_CHECKING:
    import numpy

__all__ = ["ABSURD", "farthest", "refuse_absurd", "refuse_outliers"]

ABSURD = 1e6  # times as far from the median as 90 % of the nearer values
_NO_SCALE = 1e12  # for a column of two values, which has no scale of its own
_QUANTILE = 0.9


def refuse_outliers(source: Source) -> None:
    """Refuse a table with an absurd value, see `refuse_absurd`; other data are left alone.

    Raises:
        DataError: naming row, column and value.
    """
    if isinstance(source, TableSource):
        values = source.rows(range(len(source))).numpy()
        remedy = "correct it, or train on it with --accept-outliers (accept_outliers=True)"
        refuse_absurd(values, source.columns, source.name, remedy)


def refuse_absurd(
    values: numpy.ndarray,
    columns: Sequence[str],
    name: str,
    remedy: str,
    numbers: Sequence[int] | numpy.ndarray | None = None,
) -> None:
    """Refuse rows with a value that is absurd for its column.

    The value of a column that is farthest from its median is absurd if it is a million times as far
    as 90 % of the nearer values. Values that are equal to the median or to the farthest value do
    not count, so that a mark for missing values is found even if it is frequent. If there are no
    other values, it is absurd from the larger of 1e18 and 1e18 times the median on.

    Arguments:
        values: the rows, finite, with shape `(N, D)`.
        columns: the names of the columns.
        name: name of the table, for the message.
        remedy: the end of the message.
        numbers: what the message calls the rows; None counts them from 0.

    Raises:
        DataError: naming row, column and value.
    """
    for place, column in enumerate(columns):
        row, times = farthest(values[:, place])
        if times > ABSURD:
            number = row if numbers is None else numbers[row]
            raise DataError(
                f"{name}: row {number}, column {column!r} is {values[row, place]:g}, a million "
                f"times as far from the median as other values: {remedy}"
            )


def farthest(values: numpy.ndarray) -> tuple[int, float]:
    """The first row with the value that is farthest from the median, and how far it is.

    Arguments:
        values: a column, finite, with shape `(N,)`.

    Returns:
        The row, and the distance as a multiple of the one that 90 % of the nearer values are
        within, see `refuse_absurd`.
    """
    import numpy

    with numpy.errstate(all="ignore"):
        median = float(numpy.median(values))
        distances = numpy.abs(values - median)
    row = int(distances.argmax())
    others = distances[(distances > 0) & (distances < distances[row])]
    scale = _NO_SCALE * max(1.0, abs(median))
    if len(others):
        scale = float(numpy.quantile(others, _QUANTILE, method="lower"))
    return row, float(distances[row]) / scale
