"""Map bounded columns to the real line: by normal quantiles, or a logarithm for one bound."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from nflows.transforms import Transform
from torch import Tensor

from impflow_zoo.numerics.modes import seen

__all__ = ["Interval"]

_LOG_OF_NORM = math.log(2 * math.pi) / 2  # of the normal density


class Interval(Transform):
    """Bounds of columns.

    With two bounds, `z` is the standard normal quantile of `(x - low) / (high - low)`: uniform
    values become normal, as the noise of a flow is. With one bound, `z` is `log(x - low)` or
    `-log(high - x)`. A column without bounds stays as it is. Inputs must lie strictly between the
    bounds; results of the inverse do, also in float32.

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
            if all(finite):
                below, above = (x - low) / (high - low), (high - x) / (high - low)
                left = below < above
                tail = torch.special.ndtri(torch.where(left, below, above))
                z = torch.where(left, tail, -tail)
                logabsdet = logabsdet + z**2 / 2 + _LOG_OF_NORM - math.log(high - low)
            elif finite[0]:
                z = (x - low).log()
                logabsdet = logabsdet - z
            elif finite[1]:
                z = -(high - x).log()
                logabsdet = logabsdet + z
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
                left = z < 0
                # half of `erfc` keeps the digits of a tail that `ndtr` loses
                share = torch.special.erfc(torch.where(left, -z, z) / math.sqrt(2)) / 2
                x = torch.where(left, low + (high - low) * share, high - (high - low) * share)
                logabsdet = logabsdet - z**2 / 2 - _LOG_OF_NORM + math.log(high - low)
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
