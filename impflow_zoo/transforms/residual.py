"""The residual block `z = x + g(x)`."""

from __future__ import annotations

from torch import nn

from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solver import Solver
from impflow_zoo.transforms.base import ResidualBlock, Step

__all__ = ["ResFlowTransform"]


class ResFlowTransform(ResidualBlock):
    """Residual flow block: data -> noise is `z = x + g(x)` with `Lip(g) < 1`.

    References:
        Residual Flows for Invertible Generative Modeling (Chen et al., 2019)
        https://arxiv.org/abs/1906.02735

    Arguments:
        net: `g`, any module from `[B, ...]` to the same shape, called as `net(x)`, or
            `net(x, context)` if there is a context. `LipschitzMLP` is bounded by construction;
            for other nets the bound is up to the user.
        logdet: `"auto"`, `"exact"`, `"unbiased"`, `"truncated"`, or a `LogDet`.
        solver: how the inverse is found; None takes `Solver()`.

    Example:
        >>> import torch
        >>> from impflow_zoo import LipschitzMLP
        >>> t = ResFlowTransform(LipschitzMLP(features=2)).eval()
        >>> x = torch.randn(3, 2)
        >>> z, logabsdet = t(x)
        >>> torch.allclose(t.inverse(z)[0], x, atol=1e-4)
        True
    """

    steps = (Step("net"),)

    def __init__(
        self, net: nn.Module, logdet: str | LogDet = "auto", solver: Solver | None = None
    ) -> None:
        super().__init__(logdet, solver)
        self.net = net
