"""Bounds of the columns of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from impflow_zoo.models.fields import ModelError
from impflow_zoo.numerics.modes import seen

__all__ = ["Limits"]


class Limits:
    """The bounds of some columns.

    Arguments:
        columns: names of all columns.
        bounds: lowest and highest value by name of a column.
    """

    def __init__(self, columns: tuple[str, ...], bounds: dict[str, tuple[float, float]]) -> None:
        self.columns = columns
        numbers = {name: i for i, name in enumerate(columns)}
        self.bounds = {numbers[name]: ends for name, ends in bounds.items()}

    def inside(self, x: Tensor) -> Tensor:
        """Which rows, `[B, D]`, are strictly within all bounds, `[B]`."""
        held = [(low < x[:, i]) & (x[:, i] < high) for i, (low, high) in self.bounds.items()]
        return torch.stack((torch.ones_like(x[:, 0], dtype=torch.bool), *held)).all(dim=0)

    def within(self, x: Tensor) -> Tensor:
        """Rows, `[..., D]`, with what lies outside of bounds on them."""
        found = x.clone()
        for i, ends in self.bounds.items():
            found[..., i] = x[..., i].clamp(*ends)
        return found

    def check(self, x: Tensor, steps: Sequence[float] = (), *, raw: bool = False) -> None:
        """Refuse rows on a bound or outside.

        Arguments:
            x: rows, `[B, D]`.
            steps: rounding step of each column.
            raw: whether rows have no noise yet: then a rounded value may be a bound.

        Raises:
            ModelError: naming the column.
        """
        for i, (low, high) in self.bounds.items():
            outside = (x[:, i] < low) | (x[:, i] > high)
            rounded = bool(steps and steps[i])
            if not (raw and rounded):
                outside |= (x[:, i] == low) | (x[:, i] == high)
            remedy = ""
            if not rounded:
                remedy = ", or state the rounding step of a column whose values reach its bounds"
            elif not raw:
                remedy = ", or add noise to rounded values by model.dequantise, as evaluate does"
            self._refuse(seen(outside), seen(x), i, remedy)

    def spread(self, x: Tensor, raw: Tensor, noise: Tensor, steps: Tensor) -> None:
        """Keep noise of one rounding step within the bounds, in float32 as well.

        Arguments:
            x: raw rows with their noise; changed in place.
            raw, noise: the two, noise uniform in [0, 1).
            steps: rounding step of each column.

        Raises:
            ModelError: for raw rows outside the bounds.
        """
        self.check(raw, steps.tolist(), raw=True)
        for i, (low, high) in self.bounds.items():
            if steps[i] > 0:
                least = (raw[:, i] - steps[i] / 2).clamp(min=low + _rounding_error(low))
                most = (raw[:, i] + steps[i] / 2).clamp(max=high - _rounding_error(high))
                x[:, i] = least + noise[:, i] * (most - least)

    def _refuse(self, outside: Tensor, x: Tensor, column: int, remedy: str) -> None:
        if not bool(outside.any()):
            return
        rows, (low, high) = outside.nonzero()[:, 0].tolist(), self.bounds[column]
        raise ModelError(
            f"column {self.columns[column]} is not within its bounds, {low:g} and {high:g}, in "
            f"{len(rows)} of {len(x)} rows (first: row {rows[0]}, {float(x[rows[0], column]):g}): "
            f"the density is zero there. Leave such rows out, or set wider bounds{remedy}"
        )


def _rounding_error(bound: float) -> float:
    """How far from a bound float32 still tells numbers from it."""
    return 2 * torch.finfo(torch.float32).eps * abs(bound) if math.isfinite(bound) else 0.0
