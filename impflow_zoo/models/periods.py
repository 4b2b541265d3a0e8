"""Columns of a table that have a period."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

__all__ = ["Periods"]


class Periods:
    """The periods of some columns.

    Arguments:
        columns: names of all columns.
        periods: by name of a column.
    """

    def __init__(self, columns: Sequence[str], periods: Mapping[str, float]) -> None:
        numbers = {name: i for i, name in enumerate(columns)}
        self.periods = {numbers[name]: period for name, period in periods.items()}

    def reduced(self, x: Tensor) -> Tensor:
        """Rows, `[B, D]`, with these columns from 0 to their period."""
        return self._each(x, 0.0)

    def shorter(self, difference: Tensor) -> Tensor:
        """Differences of rows, `[B, D]`, of these columns the shorter way round."""
        return self._each(difference, 0.5)

    def turned(self, numbers: Tensor, column: int, step: float, offset: float) -> Tensor:
        """Numbers of points of a grid, those beyond a turn replaced by what they are in it.

        Arguments:
            numbers: whole; the grid has the points `number * step + offset`.
            column: whose grid it is; one without a period keeps its numbers.
            step, offset: of the grid.
        """
        period = self.periods.get(column)
        if period is None:
            return numbers
        first, end = (math.ceil((x - offset) / step - 1e-9) for x in (0.0, period))
        return first + (numbers - first).remainder(max(1, end - first))

    def _each(self, x: Tensor, below: float) -> Tensor:
        if not (self.periods and x.is_floating_point()):
            return x
        x = x.clone()
        for i, period in self.periods.items():
            x[:, i] = (x[:, i] + below * period).remainder(period) - below * period
        return x
