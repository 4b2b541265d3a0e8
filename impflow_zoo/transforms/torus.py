"""Angles: flows on products of circles and lines.

A residual map `r(t) = t + g(t)` of scaled angles `t` is one of the torus if `g` has period `2 pi`
in each of them: then `r(t + 2 pi) = r(t) + 2 pi`. Nets see `e(t) = (cos t, sin t)`, so that
`g = P G e` has this period. `e` has derivative `(-sin t, cos t)`, a unit vector, and `P` drops
coordinates: neither stretches distances, and `Lip(g) <= Lip(G) < 1` in the angles. By the
contraction theorem `r` is a bijection of the line, and one of the circle as it commutes with turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from nflows.transforms import Transform
from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import watched
from impflow_zoo.numerics.folded import FoldedModule, FoldedNet, fold

__all__ = ["Angles", "CircleToLine", "OnColumns", "TorusNet"]

_TURN = 2 * math.pi
_SEAM = 1e-15  # how near uniform numbers come to 0 and 1, whose images are infinite


class Angles(Transform):
    """Columns with a period, as angles from 0 to `2 pi`; others stay as they are.

    Arguments:
        periods: period of each column, 0 for a column without.
    """

    def __init__(self, periods: Sequence[float]) -> None:
        super().__init__()
        self.periods = tuple(periods)
        self.volume = sum(math.log(_TURN / period) for period in periods if period)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: rows `x` with shape `[B, D]`.
            context: has no effect.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            ValueError: for rows of another size.
        """
        columns = [
            x.remainder(period) * (_TURN / period) if period else x
            for x, period in zip(inputs.unbind(dim=1), self.periods, strict=True)
        ]
        return torch.stack(columns, dim=1), inputs.new_full((len(inputs),), self.volume)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `z` with shape `[B, D]`; angles of any turn.
            context: has no effect.

        Returns:
            `x` with the shape of `z`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            ValueError: for rows of another size.
        """
        columns = [
            (x * (period / _TURN)).remainder(period) if period else x
            for x, period in zip(inputs.unbind(dim=1), self.periods, strict=True)
        ]
        return torch.stack(columns, dim=1), inputs.new_full((len(inputs),), -self.volume)


class CircleToLine(Transform):
    """`Phi^-1(t / 2 pi)` of an angle: maps a uniform angle to a standard normal."""

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: angles `x` with shape `[B, D]`, of any turn.
            context: has no effect.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.
        """
        uniform = (inputs.double() / _TURN).remainder(1).clamp(_SEAM, 1 - _SEAM)
        z = torch.special.ndtri(uniform).to(inputs.dtype)
        return z, -_log_slope(z)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `z` with shape `[B, D]`.
            context: has no effect.

        Returns:
            Angles `x` from 0 to `2 pi`, with the shape of `z`, and `log|det dx/dz|`, `[B]`.
        """
        angle = _TURN * torch.special.ndtr(inputs.double())
        return angle.to(inputs.dtype), _log_slope(inputs)


def _log_slope(z: Tensor) -> Tensor:
    """Log-determinants of `2 pi Phi`, one for each row."""
    log_normal = -0.5 * (z**2 + math.log(2 * math.pi))
    return (math.log(_TURN) + log_normal).sum(dim=1)


class OnColumns(Transform):
    """A transform of some columns; the others stay as they are.

    Arguments:
        transform: transform of rows of these columns.
        columns: numbers of the columns, in order.
    """

    def __init__(self, transform: Transform, columns: Sequence[int]) -> None:
        super().__init__()
        self.transform, self.columns = transform, tuple(columns)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: rows `x` with shape `[B, D]`.
            context: one context per row, for the transform.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            IndexError: for rows that lack one of the columns; further errors are those of the
                transform.
        """
        return self._put(inputs, *self.transform(inputs[:, self.columns], context))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `z` with shape `[B, D]`.
            context: one context per row, for the transform.

        Returns:
            `x` with the shape of `z`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            IndexError: for rows that lack one of the columns; further errors are those of the
                transform.
        """
        return self._put(inputs, *self.transform.inverse(inputs[:, self.columns], context))

    def _put(self, inputs: Tensor, changed: Tensor, logabsdet: Tensor) -> tuple[Tensor, Tensor]:
        columns = list(inputs.unbind(dim=1))
        for i, column in zip(self.columns, changed.unbind(dim=1), strict=True):
            columns[i] = column
        return torch.stack(columns, dim=1), logabsdet


class TorusNet(nn.Module):
    """A net that sees the cosine and the sine of angles; its Lipschitz constant stays the same.

    Arguments:
        net: from `[B, features + angles]` to the same shape, for instance a `SandwichMLP`.
        angles: numbers of the columns that are angles.
    """

    def __init__(self, net: nn.Module, angles: Sequence[int]) -> None:
        super().__init__()
        self.net, self.angles = net, tuple(angles)

    @property
    def lipschitz(self) -> float | None:
        """A bound on the Lipschitz constant in the 2-norm, if the net states one."""
        return getattr(self.net, "lipschitz", None)

    def certificate(self) -> float | None:
        """The proved bound of the net, which holds for this one; None if it proves none."""
        certificate = getattr(self.net, "certificate", None)
        return None if certificate is None else certificate()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What the net says of the columns, without the second number of each angle.

        Arguments:
            x: rows with shape `[B, features]`, angles in radians.
            context: one context per row, for the net.

        Returns:
            Rows with the shape of `x`.

        Raises:
            IndexError: for rows that lack one of the angles; further errors are those of the net.
        """
        inner = _embedded(x, self.angles)
        value: Tensor = self.net(inner) if context is None else self.net(inner, context)
        return value[:, : x.shape[1]]

    def fold(self, context: Tensor | None) -> FoldedNet:
        """The net at a context, as blocks evaluate it; with hooks, which run, as it is called.

        Arguments:
            context: one context per row, for the net, with shape `[B, context_features]`, or None.

        Returns:
            A `FoldedNet` from rows `[B, features]` to the same shape.

        Raises:
            ValueError: those of the net, for contexts that it does not take.
        """
        if watched(self):
            return FoldedModule(self, context)
        return _FoldedTorusNet(fold(self.net, context), self.angles)


class _FoldedTorusNet(FoldedNet):
    def __init__(self, net: FoldedNet, angles: tuple[int, ...]) -> None:
        self.net, self.angles, self.tensors = net, angles, net.tensors
        self.shape = None if net.shape is None else (net.shape[0] - len(angles),)

    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward(_embedded(x, self.angles))[:, : x.shape[1]]

    def rows(self, index: Tensor | slice) -> FoldedNet:
        return _FoldedTorusNet(self.net.rows(index), self.angles)

    def requires_grad(self, x: Tensor) -> bool:
        return self.net.requires_grad(_embedded(x, self.angles))


def _embedded(x: Tensor, angles: tuple[int, ...]) -> Tensor:
    """Rows with cosines in place of angles, and their sines behind."""
    columns = list(x.unbind(dim=1))
    sines = [columns[i].sin() for i in angles]
    for i in angles:
        columns[i] = columns[i].cos()
    return torch.stack((*columns, *sines), dim=1)
