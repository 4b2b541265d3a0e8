"""Every block of the zoo by name, and what the tests of its laws share."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from impflow_zoo import ImpFlowTransform, LipschitzMLP, LogDet, ResFlowTransform
from impflow_zoo.lipschitz.norms import LipschitzLinear
from impflow_zoo.transforms.base import ResidualBlock
from impflow_zoo.transforms.monotone import MonotoneTransform

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


NETS = {
    "sin": NetSpec(_mlp()),
    "lipswish": NetSpec(_mlp("lipswish")),
    "clipswish": NetSpec(_mlp("clipswish")),
    "maxmin": NetSpec(_mlp("maxmin")),
    "cpila-preactivation": NetSpec(_mlp("cpila", preactivation=True)),
    "softplus-inf-norm": NetSpec(_mlp("softplus", norm="inf"), p=math.inf),
    "elu-context": NetSpec(_mlp("elu", context_features=2), context=2),
    "user": NetSpec(UserNet),
    "user-context": NetSpec(UserContextNet, context=3),
    "user-image": NetSpec(UserConvNet, shape=(1, 3, 3)),
    "one-feature": NetSpec(lambda: LipschitzMLP(1, (8,), "sin", KAPPA), shape=(1,)),
}
MONOTONE = ("sin", "cpila-preactivation", "elu-context", "user-image")  # shares all code


@dataclass(frozen=True)
class Block:
    """A constructor of a block, which takes its log-det mode, and the net it is made of."""

    make: Callable[[str | LogDet], ResidualBlock]
    net: NetSpec


def _resflow(net: NetSpec) -> Block:
    return Block(lambda logdet: ResFlowTransform(net.make(), logdet), net)


def _impflow(net: NetSpec) -> Block:
    return Block(lambda logdet: ImpFlowTransform(net.make(), net.make(), logdet), net)


def _monotone(net: NetSpec) -> Block:
    return Block(lambda logdet: MonotoneTransform(net.make(), logdet), net)


def _tied(logdet: str | LogDet) -> ResidualBlock:
    net = LipschitzMLP(3, (8,), "lipswish", KAPPA)
    return ImpFlowTransform(net, nn.Sequential(net, nn.Tanh()), logdet)


BLOCKS = {
    **{f"resflow-{name}": _resflow(net) for name, net in NETS.items()},
    **{f"impflow-{name}": _impflow(net) for name, net in NETS.items()},
    **{f"monotone-{name}": _monotone(NETS[name]) for name in MONOTONE},
    "impflow-shared-weights": Block(_tied, NetSpec(nn.Identity)),
}

DIRECTIONS = ("forward", "inverse")


def tighten(module: nn.Module, factor: float = 5.0) -> None:
    """Enlarge the weights of Lipschitz layers, so that the bound, not the start, decides."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, LipschitzLinear):
                layer.weight.mul_(factor)


def build(
    name: str,
    logdet: str | LogDet = "exact",
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> ResidualBlock:
    """A block in evaluation mode whose Lipschitz bounds are active."""
    block = BLOCKS[name].make(logdet)
    tighten(block)
    return block.to(device, dtype).eval()


def draw(
    name: str,
    rows: int = 5,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor | None]:
    """Random inputs of a block, and contexts if it takes them."""
    net = BLOCKS[name].net
    x = 2 * torch.randn(rows, *net.shape, dtype=dtype)
    context = None if net.context is None else torch.randn(rows, net.context, dtype=dtype)
    return x.to(device), None if context is None else context.to(device)


def values(block: ResidualBlock, direction: str) -> Callable[..., Tensor]:
    """The method of a direction that computes no log-determinant."""
    return {"forward": block.encode, "inverse": block.decode}[direction]


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Dense Jacobians of a map whose rows do not interact, `[B, d, d]`, by plain autograd."""
    x = x.detach().clone().requires_grad_()
    y = f(x).flatten(1)
    rows = [
        torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0].flatten(1)
        for i in range(y.shape[1])
    ]
    return torch.stack(rows, dim=1)


def dense_logdet(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`log|det df/dx|` of every row, `[B]`."""
    return torch.linalg.slogdet(jacobian(f, x)).logabsdet


def length(x: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm of each row, `[B]`."""
    return torch.linalg.vector_norm(x.flatten(1), ord=p, dim=1)


def rounding_bound(x: Tensor, p: float = 2.0, kappa: float = KAPPA) -> Tensor:
    """What a round trip may be off by rounding alone, `[B]`."""
    return 8 * EPS[x.dtype] * (1 + length(x, p)) / (1 - kappa)


def check_gradients(loss: Callable[[], Tensor], tensors: list[Tensor]) -> None:
    """Compare derivatives of a scalar with finite differences, along random directions."""
    assert tensors
    assert gradcheck(
        lambda *_: loss(), tuple(tensors), fast_mode=True, eps=1e-6, atol=1e-7, rtol=1e-5
    )


def twin(block: ResidualBlock, dtype: torch.dtype) -> ResidualBlock:
    """A copy of a block in another data type."""
    return copy.deepcopy(block).to(dtype)
