"""Every block of the zoo by name, and what the tests of its laws share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from impflow_zoo import (
    ImpFlowTransform,
    LipschitzConvNet,
    LipschitzDenseNet,
    LipschitzMLP,
    LogDet,
    ResFlowTransform,
    SandwichMLP,
)
from impflow_zoo.lipschitz.published_nets import PublishedMLP
from impflow_zoo.numerics.folded import Point, fold
from impflow_zoo.numerics.report import Report
from impflow_zoo.testing.case import (
    BlockCase,
    Reference,
    check_gradients,
    dense_logdet,
    jacobian,
    tighten,
    values,
)
from impflow_zoo.transforms.base import ResidualBlock
from impflow_zoo.transforms.blocks import MonotoneTransform

__all__ = [
    "BLOCKS",
    "DIRECTIONS",
    "EPS",
    "IMAGE_BLOCKS",
    "KAPPA",
    "NETS",
    "build",
    "check_gradients",
    "dense_logdet",
    "draw",
    "jacobian",
    "length",
    "linearize",
    "reported",
    "tighten",
    "values",
]

KAPPA = 0.8
EPS = {t: torch.finfo(t).eps for t in (torch.float32, torch.float64)}


class UserNet(nn.Module):
    """A net that knows nothing of the package: `kappa tanh(A x + b)` with orthogonal `A`."""

    def __init__(self, features: int = 3, kappa: float = KAPPA) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)
        nn.init.orthogonal_(self.linear.weight)
        self.kappa = kappa

    def forward(self, x: Tensor) -> Tensor:
        return self.kappa * torch.tanh(self.linear(x))


class UserContextNet(UserNet):
    """The same with a context of the features' size added within."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return super().forward(x + context)


class UserConvNet(nn.Module):
    """Two convolutions on `[B, 1, h, w]` of norm at most 1: all their taps add up to that."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)
        with torch.no_grad():
            for conv in (self.inner, self.outer):
                conv.weight.div_(conv.weight.abs().sum())

    def forward(self, x: Tensor) -> Tensor:
        return KAPPA * self.outer(torch.sin(self.inner(x)))


@dataclass(frozen=True)
class NetSpec:
    """A net constructor and the sizes of what it takes."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3,)
    context: int | None = None
    p: float = 2.0  # the norm in which the Lipschitz constant is at most KAPPA


def _mlp(activation: str = "sin", **options: object) -> Callable[[], nn.Module]:
    return lambda: LipschitzMLP(3, (8, 4), activation, KAPPA, **options)


def _published(activation: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: PublishedMLP(3, (8, 4), activation, KAPPA, **options)


NETS = {
    "sin": NetSpec(_mlp()),
    "lipswish": NetSpec(_mlp("lipswish")),
    "clipswish": NetSpec(_mlp("clipswish")),
    "maxmin": NetSpec(_mlp("maxmin")),
    "cpila-preactivation": NetSpec(_published("cpila", preactivation=True)),
    "softplus": NetSpec(_mlp("softplus")),
    "elu-context": NetSpec(_mlp("elu", context_features=2), context=2),
    "sandwich": NetSpec(lambda: SandwichMLP(3, (8, 4), lipschitz=KAPPA, frequency=2.0)),
    "sandwich-elu-context": NetSpec(
        lambda: SandwichMLP(3, (8, 4), "elu", KAPPA, context_features=2), context=2
    ),
    "sin-frequency": NetSpec(_mlp(frequency=2.0)),
    "user": NetSpec(UserNet),
    "user-context": NetSpec(UserContextNet, context=3),
    "user-image": NetSpec(UserConvNet, shape=(1, 3, 3)),
    "one-feature": NetSpec(lambda: LipschitzMLP(1, (8,), "sin", KAPPA), shape=(1,)),
}
IMAGE_NETS = {
    "conv-image": NetSpec(lambda: LipschitzConvNet(2, (3, 3), 4, lipschitz=KAPPA), shape=(2, 3, 3)),
    "conv-frequency-image": NetSpec(
        lambda: LipschitzConvNet(
            2, (3, 3), 4, (3, 3), preactivation=True, lipschitz=KAPPA, frequency=2.0
        ),
        shape=(2, 3, 3),
    ),
    "dense-image": NetSpec(
        lambda: LipschitzDenseNet(2, (3, 3), growth=3, depth=2, lipschitz=KAPPA), shape=(2, 3, 3)
    ),
}
MONOTONE = (
    "sin",
    "sandwich",
    "cpila-preactivation",
    "elu-context",
    "user-image",
)  # shares all code


def _case(
    make: Callable[[str | LogDet], ResidualBlock], net: NetSpec, reference: Reference | None
) -> BlockCase:
    return BlockCase(make, net.shape, net.context, KAPPA, net.p, reference)


def _root(net: nn.Module, y: Tensor, context: Tensor | None) -> Tensor:
    """`w` with `w + g(w) = y` by plain iteration, as often as float64 can tell."""
    w = y
    for _ in range(200):
        w = y - _value(net, w, context)
    return w


def _value(net: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
    return net(x) if context is None else net(x, context)


def _slope(net: nn.Module, x: Tensor, context: Tensor | None, sign: int = 1) -> Tensor:
    """`log det(I + sign J_g(x))` from the eigenvalues of the dense Jacobian."""
    eigenvalues = torch.linalg.eigvals(jacobian(lambda x: _value(net, x, context), x))
    return (1 + sign * eigenvalues).log().sum(dim=-1).real


def _resflow(net: NetSpec) -> BlockCase:
    def reference(t: nn.Module, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        return x + _value(t.net, x, c), _slope(t.net, x, c)

    return _case(lambda logdet: ResFlowTransform(net.make(), logdet), net, reference)


def _impflow(net: NetSpec) -> BlockCase:
    def reference(t: nn.Module, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        z = _root(t.net_z, x + _value(t.net_x, x, c), c)
        return z, _slope(t.net_x, x, c) - _slope(t.net_z, z, c)

    return _case(lambda logdet: ImpFlowTransform(net.make(), net.make(), logdet), net, reference)


def _monotone(net: NetSpec) -> BlockCase:
    def reference(t: nn.Module, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        w = _root(t.net, x, c)
        return w - _value(t.net, w, c), _slope(t.net, w, c, -1) - _slope(t.net, w, c)

    return _case(lambda logdet: MonotoneTransform(net.make(), logdet), net, reference)


def _tied(logdet: str | LogDet) -> ResidualBlock:
    net = LipschitzMLP(3, (8,), "lipswish", KAPPA)
    return ImpFlowTransform(net, nn.Sequential(net, nn.Tanh()), logdet)


BLOCKS = {
    **{f"resflow-{name}": _resflow(net) for name, net in NETS.items()},
    **{f"impflow-{name}": _impflow(net) for name, net in NETS.items()},
    **{f"monotone-{name}": _monotone(NETS[name]) for name in MONOTONE},
    "impflow-shared-weights": _case(_tied, NetSpec(nn.Identity), None),
}
IMAGE_BLOCKS = {
    **{f"resflow-{name}": _resflow(net) for name, net in IMAGE_NETS.items()},
    **{f"impflow-{name}": _impflow(net) for name, net in IMAGE_NETS.items()},
}

DIRECTIONS = ("forward", "inverse")


def build(name: str, logdet: str | LogDet = "exact", **options: Any) -> ResidualBlock:
    """A block in evaluation mode whose Lipschitz bounds are active."""
    return BLOCKS[name].build(logdet, **options)


def draw(name: str, rows: int = 5, **options: Any) -> tuple[Tensor, Tensor | None]:
    """Random inputs of a block, and contexts if it takes them."""
    return BLOCKS[name].draw(rows, **options)


def linearize(net: nn.Module, x: Tensor) -> Point:
    """A net at a point."""
    return fold(net, None).linearize(x)


def reported(block: ResidualBlock, x: Tensor) -> Report:
    """What a block has to say of its way from data to noise."""
    report = Report()
    block.run(x, report=report)
    return report


def length(x: Tensor) -> Tensor:
    """The 2-norm of each row, `[B]`."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


class Linear(nn.Module):
    """`g(x) = A x`, whose log-determinant is known and the same everywhere."""

    def __init__(self, matrix, lipschitz=None):
        super().__init__()
        self.matrix = nn.Parameter(matrix)
        self.lipschitz = lipschitz

    def forward(self, x):
        return x @ self.matrix.mT


def contraction(features, kappa):
    """A random matrix of 2-norm `kappa`."""
    matrix = torch.randn(features, features, dtype=torch.float64)
    return kappa * matrix / torch.linalg.matrix_norm(matrix, 2)
