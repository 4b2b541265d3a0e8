"""Blocks around nets of any kind: in place, constant, as steep as can be, shared by threads."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from impflow_zoo import (
    ImpFlowTransform,
    LipschitzMLP,
    NumericalWarning,
    ResFlowTransform,
    SolverError,
)


class Shift(nn.Module):
    """A net that depends on its context alone."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, features)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.linear(context)


class Steep(nn.Module):
    """`0.99 Q x` with `Q` orthogonal: no direction contracts faster than another."""

    def __init__(self, features: int, dtype: torch.dtype) -> None:
        super().__init__()
        q = torch.linalg.qr(torch.randn(features, features, dtype=torch.float64))[0]
        self.weight = nn.Parameter((0.99 * q).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("features", [1, 2, 3, 7])
def test_a_net_may_depend_on_its_context_alone(features, training):
    block = ResFlowTransform(Shift(features)).train(training)
    x, context = torch.randn(4, features, requires_grad=True), torch.randn(4, 2)
    z, logabsdet = block(x, context)
    assert torch.equal(logabsdet, torch.zeros(4))
    (grad,) = torch.autograd.grad(z.sum() + logabsdet.sum(), x)
    assert torch.equal(grad, torch.ones_like(x))
    assert torch.allclose(block.decode(z, context), x, atol=1e-6)


@pytest.mark.parametrize("call", ["forward", "inverse", "encode", "decode"])
@pytest.mark.parametrize("kind", ["res", "imp"])
def test_a_net_may_work_in_place(call, kind):
    def net(*, inplace: bool) -> nn.Module:
        torch.manual_seed(0)
        linear = nn.Linear(3, 3, dtype=torch.float64)
        nn.init.orthogonal_(linear.weight, gain=0.5)
        return nn.Sequential(nn.ELU(inplace=inplace), linear)

    def block(*, inplace: bool) -> nn.Module:
        nets = [net(inplace=inplace) for _ in range(2)]
        return (ImpFlowTransform(*nets) if kind == "imp" else ResFlowTransform(nets[0])).eval()

    x = torch.randn(5, 3, dtype=torch.float64)
    before = x.clone()
    found = getattr(block(inplace=True), call)(x)
    expected = getattr(block(inplace=False), call)(x)
    assert torch.equal(x, before)
    for a, b in zip(
        *((t if isinstance(t, tuple) else (t,)) for t in (found, expected)), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("features", [100])
def test_the_derivative_of_a_root_is_found_where_nothing_contracts(features, dtype):
    net = Steep(features, dtype)
    block = ResFlowTransform(net).eval()
    y = torch.randn(5, features, dtype=dtype, requires_grad=True)
    weights = torch.randn(5, features, dtype=dtype)
    (grad,) = torch.autograd.grad((block.decode(y) * weights).sum(), y)
    jacobian = torch.eye(features, dtype=torch.float64) + net.weight.detach().double()
    expected = torch.linalg.solve(jacobian.mT, weights.double().mT).mT
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    assert float((grad - expected).norm() / expected.norm()) < tolerance


class Singular(nn.Module):
    """`-Q tanh(Q^T x)`: at zero the Jacobian of `x + g(x)` vanishes."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(features, features))[0])

    def forward(self, x: Tensor) -> Tensor:
        return -torch.tanh(x @ self.weight) @ self.weight.mT


@pytest.mark.parametrize("features", [1, 2, 3, 8, 20, 100])
def test_a_singular_system_is_no_derivative(features):
    y = torch.zeros(3, features, requires_grad=True)
    block = ResFlowTransform(Singular(features))
    x = block.eval().decode(y)
    with pytest.raises(SolverError, match="implicit derivative of 3 of 3 rows"):
        torch.autograd.grad(x.sum(), y)
    x = block.train().decode(y)
    with pytest.warns(NumericalWarning, match="implicit derivative of 3 of 3 rows"):
        torch.autograd.grad(x.sum(), y)


def test_a_thread_without_gradients_takes_none_from_another():
    block = ImpFlowTransform(LipschitzMLP(2), LipschitzMLP(2)).eval()
    x, done = torch.randn(50, 2), threading.Event()

    def evaluate() -> None:
        with torch.no_grad():
            while not done.is_set():
                block(x)

    other = threading.Thread(target=evaluate)
    other.start()
    try:
        for _ in range(20):
            block.zero_grad()
            block(x)[0].sum().backward()
            assert all(p.grad is not None for p in block.parameters())
    finally:
        done.set()
        other.join()


class TwoTypes(nn.Module):
    """A net that computes its last layer in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return 0.1 * torch.tanh(self.last(torch.tanh(self.first(x)).double())).to(x.dtype)


def test_a_net_may_compute_in_two_types():
    block, x = ResFlowTransform(TwoTypes()).eval(), torch.randn(5, 3)
    torch.testing.assert_close(block.inverse(block(x)[0])[0], x)
