"""The implicit block `z + g_z(z) = x + g_x(x)`."""

from __future__ import annotations

from torch import nn

from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solver import Solver
from impflow_zoo.transforms.base import ResidualBlock, Step

__all__ = ["ImpFlowTransform"]


class ImpFlowTransform(ResidualBlock):
    """Implicit flow block: `z` is the root of `z + g_z(z) = x + g_x(x)`.

    A residual map followed by the inverse of another one; each direction has one root to find.
    The log-determinant is `L_gx(x) - L_gz(z)` with `L_g(x) = log det(I + J_g(x))`.

    References:
        Implicit Normalizing Flows (Lu et al., 2021), equations 6 and 9
        https://arxiv.org/abs/2103.09527

    Arguments:
        net_x: `g_x`, any module from `[B, ...]` to the same shape, called as `net(x)`, or
            `net(x, context)` if there is a context.
        net_z: `g_z`, likewise.
        logdet: `"auto"`, `"exact"`, `"unbiased"`, `"truncated"`, or a `LogDet`.
        solver: how roots are found; None takes `Solver()`.

    Example:
        >>> import torch
        >>> from impflow_zoo import LipschitzMLP
        >>> t = ImpFlowTransform(LipschitzMLP(features=2), LipschitzMLP(features=2)).eval()
        >>> x = torch.randn(3, 2)
        >>> z, logabsdet = t(x)
        >>> torch.allclose(t.inverse(z)[0], x, atol=1e-4)
        True
    """

    steps = (Step("net_x"), Step("net_z", inverted=True))

    def __init__(
        self,
        net_x: nn.Module,
        net_z: nn.Module,
        logdet: str | LogDet = "auto",
        solver: Solver | None = None,
    ) -> None:
        super().__init__(logdet, solver)
        self.net_x = net_x
        self.net_z = net_z
