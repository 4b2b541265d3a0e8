"""Map bounded columns to the real line: by a logit for two bounds, a logarithm for one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from nflows.transforms import Transform
from torch import Tensor
from torch.nn.functional import logsigmoid

from impflow_zoo.numerics.modes import seen

__all__ = ["Interval"]


class Interval(Transform):
    """`log(x - low) - log(high - x)` of each column, without the terms of bounds that are infinite.

    A column without bounds stays as it is. Inputs must lie strictly between the bounds; results of
    the inverse do, also in float32.

    Arguments:
        low, high: bounds of each column, `-inf` and `inf` where it is open.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        super().__init__()
        self.low, self.high = tuple(low), tuple(high)  # exact in every type the module takes

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: rows `x` with shape `[B, D]`.
            context: has no effect.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            ValueError: if a value is not between the bounds of its column, and for rows of another
                size.
        """
        columns: list[Tensor] = []
        logabsdet = inputs.new_zeros(len(inputs))
        for x, low, high in zip(inputs.unbind(dim=1), self.low, self.high, strict=True):
            z, finite = x, [abs(bound) < math.inf for bound in (low, high)]
            if not bool(seen((x > low) & (x < high)).all()):
                raise ValueError(f"column {len(columns)} is not between {low:g} and {high:g}")
            if any(finite):
                z = torch.zeros_like(x)
            if finite[0]:
                z = z + (x - low).log()
                logabsdet = logabsdet - (x - low).log()
            if finite[1]:
                z = z - (high - x).log()
                logabsdet = logabsdet - (high - x).log()
            if all(finite):
                logabsdet = logabsdet + math.log(high - low)
            columns.append(z)
        return torch.stack(columns, dim=1), logabsdet

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `z` with shape `[B, D]`.
            context: has no effect.

        Returns:
            `x` with the shape of `z`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            ValueError: for rows of another size.
        """
        columns, logabsdet = [], inputs.new_zeros(len(inputs))
        for z, low, high in zip(inputs.unbind(dim=1), self.low, self.high, strict=True):
            x, finite = z, [abs(bound) < math.inf for bound in (low, high)]
            if all(finite):
                width = high - low
                x = torch.where(z < 0, low + width * z.sigmoid(), high - width * (-z).sigmoid())
                logabsdet = logabsdet + math.log(width) + logsigmoid(z) + logsigmoid(-z)
            elif finite[0]:
                x, logabsdet = low + z.exp(), logabsdet + z
            elif finite[1]:
                x, logabsdet = high - (-z).exp(), logabsdet - z
            columns.append(_inside(x, low, high) if any(finite) else x)
        return torch.stack(columns, dim=1), logabsdet


def _inside(x: Tensor, low: float, high: float) -> Tensor:
    """Move numbers that rounding has put on or beyond a bound to the nearest number within."""
    ends = x.new_tensor((low, high))
    least, most = torch.nextafter(ends, ends.flip(0)).unbind()
    return x.clamp(least, most)
