"""The map of a mixture of Gaussians to a standard normal, column by column."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.transforms.autoregressive import ColumnByColumn
from impflow_zoo.transforms.context_made import ContextMADE

__all__ = ["MixtureAutoregressive", "normal_quantile"]

_HALVINGS = 80  # of an interval, beyond the precision of float64
_NARROWEST = 1e-3


def normal_quantile(log_p: Tensor) -> Tensor:
    """`z` with `log Phi(z) = log_p`; also where `exp(log_p)` is 0.

    Arguments:
        log_p: logarithms of probabilities, up to `log 1/2`, of any shape.

    Returns:
        `z` with the shape of `log_p`.
    """
    target = log_p.detach()
    z = -(-2 * target).sqrt()  # left of the root, from where Newton's steps never overshoot
    for _ in range(8):
        z = z - (torch.special.log_ndtr(z) - target) / _hazard(z)
    slope = _hazard(z)
    for _ in range(2):  # each adds one order of derivatives and leaves the value
        rest = log_p - torch.special.log_ndtr(z)
        z = z + (rest - rest.detach()) / slope
    return z


def _hazard(z: Tensor) -> Tensor:
    """The derivative of `log Phi`: `-z` far out, where both logarithms are too large to differ."""
    return torch.where(z < -1e6, -z, (_log_normal(z) - torch.special.log_ndtr(z)).exp())


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * (z**2 + math.log(2 * math.pi))


class MixtureAutoregressive(ColumnByColumn):
    """`Phi^-1(F(x))` with `F` a mixture of Gaussians for each column given those before it.

    The log-determinant is `log p(x) - log N(z)`, so the map with a standard normal base has exactly
    the density of the mixtures. Everything but the net is computed in float64.

    Arguments:
        features: number of columns.
        components: number of Gaussians for each column.
        hidden_features: width of the net that computes their weights, means and widths; at least
            `features`.
        context_features: size of a context row, or None.
        dropout: fraction of the hidden units that dropout zeroes in training.

    References:
        Mixture density networks (Bishop, 1994)
        https://publications.aston.ac.uk/id/eprint/373/
    """

    def __init__(
        self,
        features: int,
        components: int,
        hidden_features: int,
        context_features: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        outputs = 3 * components
        net = ContextMADE(features, hidden_features, context_features, outputs, dropout)
        super().__init__(net)
        self.components = components

    def mixture(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mixture of each column.

        Arguments:
            parameters: outputs of the net, with shape `[B, 3 D components]`.

        Returns:
            Log-weights, means and widths, each float64 with shape `[B, D, components]`.

        Raises:
            RuntimeError: for another number of outputs.
        """
        parts = parameters.double().unflatten(1, (-1, 3, self.components))
        weights, means, widths = parts.unbind(dim=2)
        apart = torch.linspace(-2, 2, self.components, dtype=means.dtype, device=means.device)
        return (
            weights.log_softmax(dim=-1),
            means + apart,
            functional.softplus(widths) + _NARROWEST,
        )

    def _elementwise_forward(
        self, inputs: Tensor, autoregressive_params: Tensor
    ) -> tuple[Tensor, Tensor]:
        mixture = self.mixture(autoregressive_params)
        z, slope = _to_normal(inputs.double(), *mixture)
        return z.to(inputs.dtype), slope.sum(dim=1).to(inputs.dtype)

    def _elementwise_inverse(
        self, inputs: Tensor, autoregressive_params: Tensor
    ) -> tuple[Tensor, Tensor]:
        z, mixture = inputs.double(), self.mixture(autoregressive_params)
        x = _from_normal(z.detach(), *(part.detach() for part in mixture))
        image, slope = _to_normal(x, *mixture)
        derivative = slope.detach().clamp(-80, 80).exp()  # far out it is no number
        for _ in range(2):  # each adds one order of derivatives and leaves the value
            rest = z - image
            x = x + (rest - rest.detach()) / derivative
            image, slope = _to_normal(x, *mixture)
        return x.to(inputs.dtype), -slope.sum(dim=1).to(inputs.dtype)


def _to_normal(x: Tensor, weights: Tensor, means: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """The map of each column and the logarithm of its derivative, both `[B, D]`."""
    u = (x[..., None] - means) / widths
    below = (weights + torch.special.log_ndtr(u)).logsumexp(dim=-1)
    above = (weights + torch.special.log_ndtr(-u)).logsumexp(dim=-1)
    left = below < above
    tail = torch.where(left, below, above)  # of a tie, one side: the gradients of both cancel
    z = normal_quantile(tail - (tail.detach() - math.log(0.5)).clamp(min=0))
    z = torch.where(left, z, -z)
    density = (weights - widths.log() + _log_normal(u)).logsumexp(dim=-1)
    return z, density - _log_normal(z)


def _from_normal(z: Tensor, weights: Tensor, means: Tensor, widths: Tensor) -> Tensor:
    """The inverse of the map, by halving: `F` is below `Phi(z)` where every component is."""
    ends = means + widths * z[..., None]
    low, high = ends.amin(dim=-1), ends.amax(dim=-1)
    sign = torch.where(z < 0, 1.0, -1.0).to(z)  # the smaller of both tails is compared
    target = torch.special.log_ndtr(sign * z)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        u = sign[..., None] * (middle[..., None] - means) / widths
        tail = (weights + torch.special.log_ndtr(u)).logsumexp(dim=-1)
        left = (tail < target) == (sign > 0)
        low, high = torch.where(left, middle, low), torch.where(left, high, middle)
    return (low + high) / 2
