"""Columns of a table that have a period."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Periods"]


class Periods:
    """The periods of some columns.

    Arguments:
        columns: names of all columns.
        turns: both ends of a turn, by name of a column.
    """

    def __init__(self, columns: Sequence[str], turns: Mapping[str, tuple[float, float]]) -> None:
        numbers = {name: i for i, name in enumerate(columns)}
        self.turns = {numbers[name]: turn for name, turn in turns.items()}

    def reduced(self, x: Tensor) -> Tensor:
        """Rows, `[B, D]`, with these columns within their turns."""
        return _each(x, self.turns)

    def shorter(self, difference: Tensor) -> Tensor:
        """Differences of rows, `[B, D]`, of these columns the shorter way round."""
        halves = {i: (high - low) / 2 for i, (low, high) in self.turns.items()}
        return _each(difference, {i: (-half, half) for i, half in halves.items()})

    def turned(self, numbers: Tensor, column: int, step: float, offset: float) -> Tensor:
        """Numbers of points of a grid, those beyond a turn replaced by what they are in it.

        Arguments:
            numbers: whole; the grid has the points `number * step + offset`.
            column: whose grid it is; one without a period keeps its numbers.
            step, offset: of the grid.
        """
        if column not in self.turns:
            return numbers
        first, end = (math.ceil((x - offset) / step - 1e-9) for x in self.turns[column])
        return first + (numbers - first).remainder(max(1, end - first))


def _each(x: Tensor, turns: Mapping[int, tuple[float, float]]) -> Tensor:
    """Rows with some columns moved by whole turns to where they lie between two ends."""
    if not (turns and x.is_floating_point()):
        return x
    x = x.clone()
    for i, (low, high) in turns.items():
        own = x[:, i]
        moved = (own - low).remainder(high - low) + low
        x[:, i] = torch.where((own >= low) & (own < high), own, moved)  # keeps all digits
    return x
