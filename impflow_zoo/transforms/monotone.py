"""The monotone block `z = w - g(w)` with `w + g(w) = x`."""

from __future__ import annotations

from torch import nn

from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solver import Solver
from impflow_zoo.transforms.base import ResidualBlock, Step

__all__ = ["MonotoneTransform"]


class MonotoneTransform(ResidualBlock):
    """Monotone block: `z = w - g(w)` at the root `w` of `w + g(w) = x`.

    The Cayley operator of a monotone map: as `Lip(g)` goes to 1, its slopes fill the positive
    numbers, from `(1 - Lip(g)) / (1 + Lip(g))` to the inverse of that, where those of a residual
    block end at 2. The log-determinant is `L_-g(w) - L_g(w)` with `L_g(w) = log det(I + J_g(w))`.

    References:
        Invertible Monotone Operators for Normalizing Flows (Ahn et al., 2022)
        https://arxiv.org/abs/2210.08176

    Arguments:
        net: `g`, any module from `[B, ...]` to the same shape, called as `net(x)`, or
            `net(x, context)` if there is a context.
        logdet: `"auto"`, `"exact"`, `"unbiased"`, `"truncated"`, or a `LogDet`.
        solver: how roots are found; None takes `Solver()`.

    Example:
        >>> import torch
        >>> from impflow_zoo import LipschitzMLP
        >>> t = MonotoneTransform(LipschitzMLP(features=2)).eval()
        >>> x = torch.randn(3, 2)
        >>> z, logabsdet = t(x)
        >>> torch.allclose(t.inverse(z)[0], x, atol=1e-4)
        True
    """

    steps = (Step("net", inverted=True), Step("net", sign=-1))

    def __init__(
        self, net: nn.Module, logdet: str | LogDet = "auto", solver: Solver | None = None
    ) -> None:
        super().__init__(logdet, solver)
        self.net = net
