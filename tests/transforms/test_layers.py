"""Blocks as layers of other nets: `encode` and its gradients, beside roots by plain iteration."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from support.blocks import KAPPA, tighten
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from impflow_zoo import ImpFlowTransform, LipschitzConvNet, LipschitzMLP, ResFlowTransform
from impflow_zoo.lipschitz.norms import refresh_norms
from impflow_zoo.transforms.base import ResidualBlock

NETS: dict[str, Any] = {
    "relu-image": lambda: LipschitzConvNet(2, (4, 4), 6, (3, 3), "relu", lipschitz=KAPPA),
    "large-image": lambda: LipschitzConvNet(4, (12, 12), 6, (3, 3), "elu", lipschitz=KAPPA),
    "user-image": lambda: nn.Sequential(NETS["relu-image"]()),
    "few-features": lambda: LipschitzMLP(3, (16,), "elu", KAPPA),
    "features": lambda: LipschitzMLP(20, (16, 16), "sin", KAPPA),
}
SHAPES = {"large-image": (4, 12, 12), "few-features": (3,), "features": (20,)}
every_net = pytest.mark.parametrize("name", NETS)
every_kind = pytest.mark.parametrize("kind", ["implicit", "residual"])
every_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def made(kind: str, name: str, *, training: bool) -> tuple[ResidualBlock, Tensor]:
    """A block in float32 whose bounds are active and whose norms are found, and rows for it."""
    nets = [NETS[name]() for _ in range(2)]
    block = ImpFlowTransform(*nets) if kind == "implicit" else ResFlowTransform(nets[0])
    tighten(block)
    refresh_norms(block)
    return block.train(training), torch.randn(5, *SHAPES.get(name, (2, 4, 4)))


def unrolled(block: ResidualBlock, x: Tensor) -> Tensor:
    """What `encode` computes, by plain iteration with the graph of every step."""
    if isinstance(block, ResFlowTransform):
        return x + block.net(x)
    assert isinstance(block, ImpFlowTransform)
    right = z = x + block.net_x(x)
    for _ in range(80):
        z = right - block.net_z(z)
    return z


def found(block: ResidualBlock, x: Tensor, f: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Value, and the gradients of a weighted sum of it by `x` and the parameters, in float64."""
    block.zero_grad()
    x = x.clone().requires_grad_()
    y = f(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    (y * weights).sum().backward()
    assert x.grad is not None
    return [t.double() for t in (y.detach(), x.grad, *(p.grad for p in block.parameters()))]


def reference(block: ResidualBlock, x: Tensor) -> list[Tensor]:
    exact = copy.deepcopy(block).double().eval()
    return found(exact, x.double(), lambda x: unrolled(exact, x))


def error(ours: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative error of a tensor."""
    pairs = zip(ours, expected, strict=True)
    return max(float((a - b).norm() / b.norm().clamp(min=1e-6)) for a, b in pairs)


@every_net
@every_kind
@every_mode
def test_gradients_are_those_of_the_root(kind: str, name: str, training: bool) -> None:
    block, x = made(kind, name, training=training)
    expected = reference(block, x)
    assert error(found(block, x, block.encode), expected) < (3e-3 if training else 1e-4)
    block.double()
    assert error(found(block, x.double(), block.encode), expected) < (1e-4 if training else 1e-9)


@every_net
@every_kind
@every_mode
def test_in_half_precision(kind: str, name: str, training: bool) -> None:
    """As good as plain iteration in half precision, whose rounding moves kinks of ReLU as well."""
    block, x = made(kind, name, training=training)
    expected, x = reference(block, x.bfloat16().float()), x.bfloat16()

    def narrow(f: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return found(block, x, f)

    peer = error(narrow(lambda x: unrolled(block, x.float())), expected)
    assert error(narrow(block.encode), expected) < 0.03 + 2 * peer
    assert block.encode(x.float()).dtype == torch.float32


@every_net
@every_kind
@every_mode
@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
def test_with_checkpoints(kind: str, name: str, training: bool, narrow: bool) -> None:
    """One more evaluation in the backward pass; the first call in evaluation finds the norms."""
    block, x = made(kind, name, training=training)
    fresh, calls = copy.deepcopy(block), 0  # without what the block keeps

    def call(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return fresh.encode(x)

    with torch.autocast("cpu", torch.bfloat16) if narrow else nullcontext():
        expected = found(block, x, block.encode)
        ours = found(fresh, x, lambda x: checkpoint(call, x, use_reentrant=False))
    assert calls == 2
    tolerance = (2e-3 if training else 1e-6) if not narrow else 0.05
    assert error(ours, expected) < tolerance


@every_kind
def test_with_saved_tensors_elsewhere(kind: str) -> None:
    block, x = made(kind, "large-image", training=False)
    with torch.autograd.graph.save_on_cpu():
        ours = found(block, x, block.encode)
    assert error(ours, found(block, x, block.encode)) < 1e-6


def test_between_other_layers_it_trains() -> None:
    torch.manual_seed(0)
    block, _ = made("implicit", "relu-image", training=True)
    before, after = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(32, 2)
    parameters = [*before.parameters(), *block.parameters(), *after.parameters()]
    optimizer, losses = torch.optim.Adam(parameters, lr=1e-2), []
    x, labels = torch.randn(32, 1, 4, 4), torch.arange(32) % 2
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            scores = after(block.encode(before(x)).flatten(1))
            loss = nn.functional.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
