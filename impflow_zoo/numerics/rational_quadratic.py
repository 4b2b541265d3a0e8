"""Monotone rational-quadratic splines: their bins, and the map of a bin in both directions.

References:
    Neural Spline Flows (Durkan et al., 2019), section 3.1
    https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from torch.nn import functional

__all__ = ["Bin", "edges", "slopes"]


@dataclass(frozen=True)
class Bin:
    """The bin of each point, as tensors of the points' shape.

    Arguments:
        x, y: where the bin starts, and the value there.
        width, height: how far the arguments and the values of the bin reach.
        left, right: slopes at both ends.
    """

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    left: Tensor
    right: Tensor

    def value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`f(x)` and `log f'(x)` (equation 4)."""
        part, mean, bend = (x - self.x) / self.width, self._mean, self._bend
        inside = part * (1 - part)
        risen = self.height * (mean * part**2 + self.left * inside) / (mean + bend * inside)
        return self.y + risen, self._log_slope(part)

    def argument(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """`x` with `f(x) = y`, and the logarithm of `dx/dy`.

        Equations 6 to 8, in the form that does not cancel.
        """
        mean, bend, rise = self._mean, self._bend, y - self.y
        a = self.height * (mean - self.left) + rise * bend
        b = self.height * self.left - rise * bend
        c = -mean * rise
        root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
        part = 2 * c / (-b - root)
        return self.x + part * self.width, -self._log_slope(part)

    @cached_property
    def _mean(self) -> Tensor:
        """The mean slope."""
        return self.height / self.width

    @cached_property
    def _bend(self) -> Tensor:
        return self.left + self.right - 2 * self._mean

    def _log_slope(self, part: Tensor) -> Tensor:
        """`log f'` where this part of the width has passed (equation 5)."""
        mean, rest = self._mean, 1 - part
        slope = self.right * part**2 + 2 * mean * part * rest + self.left * rest**2
        return 2 * mean.log() + slope.log() - 2 * (mean + self._bend * part * rest).log()


def edges(sizes: Tensor, least: float) -> Tensor:
    """The ends of bins that divide the interval from 0 to 1.

    Arguments:
        sizes: logits of the bins' sizes, `[..., bins]`.
        least: smallest size of a bin, relative to their mean.

    Returns:
        The ends, `[..., bins + 1]`; the first one is exactly 0 and the last one exactly 1.
    """
    shares = least / sizes.shape[-1] + (1 - least) * sizes.softmax(dim=-1)
    inner = shares.cumsum(dim=-1)[..., :-1]
    return functional.pad(functional.pad(inner, (1, 0)), (0, 1), value=1.0)


def slopes(raw: Tensor, least: float) -> Tensor:
    """Slopes at knots, at least this large; zeros give 1."""
    return least + (1 - least) * functional.softplus(raw) / math.log(2)
