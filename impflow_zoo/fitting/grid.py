"""The grid that the values of a column are rounded to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from impflow_zoo.data.columns import EXACT

if TYPE_CHECKING:
    import numpy

__all__ = ["rounding_grid", "spike"]

_DECIMALS = 9
_FLOAT32 = 1.2e-7  # files of float32 have rounded the grid itself


def rounding_grid(values: numpy.ndarray) -> tuple[float, float]:
    """The step of the coarsest grid that all values lie on, and its first point from 0 on.

    The step is 0 if there is no grid.

    Columns none of whose values repeats are taken for continuous ones, unless they are whole
    numbers.

    Arguments:
        values: with shape `(N,)`, finite, not all the same.

    Example:
        >>> import numpy
        >>> rounding_grid(numpy.array([0.5, 2.5, 0.5, 4.5, 1.5]))
        (1.0, 0.5)
    """
    import numpy

    distinct = numpy.unique(values)
    repeats = len(distinct) < len(values)
    exact = numpy.abs(distinct).max() < EXACT  # above, every float64 is whole
    whole = bool(exact and (distinct % 1 == 0).all())
    if whole and not repeats:
        return 1.0, 0.0
    if not repeats:
        return 0.0, 0.0
    for decimals in range(_DECIMALS):
        scaled = distinct * 10.0**decimals
        if numpy.abs(scaled).max() >= EXACT:
            break
        units = numpy.round(scaled)
        slack = min(0.01, max(1e-6, _FLOAT32 * float(numpy.abs(scaled).max())))
        if numpy.abs(scaled - units).max() <= slack:
            points = units.astype(numpy.int64)
            steps = numpy.diff(points)
            step = math.gcd(*steps[steps > 0].tolist())
            if step == 0:  # too coarse to tell any values apart
                continue
            return step / 10**decimals, int(points[0]) % step / 10**decimals
    return _uneven(distinct) if len(distinct) < len(values) / 2 else (0.0, 0.0)


def _uneven(distinct: numpy.ndarray) -> tuple[float, float]:
    """The step and first point of a grid that has no end in decimals, such as thirds."""
    import numpy

    places = distinct - distinct[0]
    step = float(numpy.diff(distinct).min())
    counts = places / step
    step = float(places[-1] / round(counts[-1]))
    off = numpy.abs(places / step - numpy.round(places / step)).max()
    if off >= 1e-4:
        return 0.0, 0.0
    offset = float(distinct[0]) % step
    near = min(offset, step - offset) < 1e-4 * step
    return step, 0.0 if near else offset


def spike(values: numpy.ndarray) -> tuple[float, float] | None:
    """The most frequent value and its part of the rows, if it stands out of a continuous column."""
    import numpy

    distinct, counts = numpy.unique(values, return_counts=True)
    part = float(counts.max() / len(values))
    return (float(distinct[counts.argmax()]), part) if part > 0.02 and counts.max() > 2 else None
