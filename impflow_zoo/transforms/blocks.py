"""The blocks: a list of steps each, and the nets that the steps name.

Each takes its nets, any modules from `[B, ...]` to the same shape, called as `net(x)`, or as
`net(x, context)` if there is a context. The nets of this package are bounded by construction; for
other nets the user must make sure that the bound holds.
"""

from __future__ import annotations

from torch import nn

from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solver import Solver
from impflow_zoo.transforms.base import ResidualBlock, Step

__all__ = ["ImpFlowTransform", "MonotoneTransform", "ResFlowTransform"]


class ResFlowTransform(ResidualBlock):
    """Residual flow block: data -> noise is `z = x + g(x)` with `Lip(g) < 1`.

    References:
        Residual Flows for Invertible Generative Modeling (Chen et al., 2019)
        https://arxiv.org/abs/1906.02735

    Arguments:
        net: `g`, from rows to rows of the same shape, `[B, ...]`, with a Lipschitz constant below
            1.
        logdet: how log-determinants are computed.
        solver: how the inverse is found.

    Example:
        >>> import torch
        >>> from impflow_zoo import LipschitzMLP
        >>> t = ResFlowTransform(LipschitzMLP(features=2)).eval()
        >>> x = torch.randn(3, 2)
        >>> torch.allclose(t.decode(t.encode(x)), x, atol=1e-4)
        True
    """

    steps = (Step("net"),)

    def __init__(
        self, net: nn.Module, logdet: str | LogDet = "auto", solver: Solver | None = None
    ) -> None:
        super().__init__(logdet, solver)
        self.net = net


class ImpFlowTransform(ResidualBlock):
    """Implicit flow block: `z` is the root of `z + g_z(z) = x + g_x(x)`.

    A residual map followed by the inverse of another one. Each direction needs one root.
    The log-determinant is `L_gx(x) - L_gz(z)` with `L_g(x) = log det(I + J_g(x))`.

    References:
        Implicit Normalizing Flows (Lu et al., 2021), equations 6 and 9
        https://arxiv.org/abs/2103.09527

    Arguments:
        net_x: `g_x`, from rows to rows of the same shape, `[B, ...]`, with a Lipschitz constant
            below 1.
        net_z: `g_z`, as `net_x`.
        logdet: how log-determinants are computed.
        solver: how roots are found.

    Example:
        >>> import torch
        >>> from impflow_zoo import LipschitzMLP
        >>> t = ImpFlowTransform(LipschitzMLP(features=2), LipschitzMLP(features=2)).eval()
        >>> x = torch.randn(3, 2)
        >>> torch.allclose(t.decode(t.encode(x)), x, atol=1e-4)
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


class MonotoneTransform(ResidualBlock):
    """Monotone block: `z = w - g(w)` at the root `w` of `w + g(w) = x`.

    This is the Cayley operator of a monotone map. Its slopes lie between
    `(1 - Lip(g)) / (1 + Lip(g))` and the inverse of this number; slopes of residual blocks are
    below 2. The log-determinant is `L_-g(w) - L_g(w)` with `L_g(w) = log det(I + J_g(w))`.

    References:
        Invertible Monotone Operators for Normalizing Flows (Ahn et al., 2022)
        https://arxiv.org/abs/2210.08176

    Arguments:
        net: `g`, from rows to rows of the same shape, `[B, ...]`, with a Lipschitz constant below
            1.
        logdet: how log-determinants are computed.
        solver: how roots are found.
    """

    steps = (Step("net", inverted=True), Step("net", sign=-1))

    def __init__(
        self, net: nn.Module, logdet: str | LogDet = "auto", solver: Solver | None = None
    ) -> None:
        super().__init__(logdet, solver)
        self.net = net
