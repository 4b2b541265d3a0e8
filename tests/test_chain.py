"""Chains are the nets they come from; what is derived by hand agrees with autograd."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from impflow_zoo import ImpFlowTransform, LipschitzMLP, ResFlowTransform, Solver
from impflow_zoo.lipschitz import elementwise
from impflow_zoo.lipschitz.activations import Sin
from impflow_zoo.lipschitz.elementwise import SiLU, Sine
from impflow_zoo.numerics import chain as chain_module
from impflow_zoo.numerics import monitor, tape
from impflow_zoo.numerics.chain import Chain
from impflow_zoo.numerics.linearize import Linearization, chain_of, linearize
from impflow_zoo.numerics.rows import norm
from impflow_zoo.testing import dense_logdet

NETS: dict[str, dict[str, Any]] = {
    "sin": {},
    "silu": {"activation": "lipswish"},
    "silu-preactivation": {"activation": "lipswish", "preactivation": True},
    "sin-context": {"context_features": 2},
    "inf-norm": {"norm": "inf"},
}


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> LipschitzMLP:
    return LipschitzMLP(3, (8, 5), lipschitz=0.9, **NETS[request.param]).double().eval()


def draw(net: LipschitzMLP, rows: int = 40) -> tuple[Tensor, Tensor | None]:
    x = torch.randn(rows, 3, dtype=torch.float64)
    size = net.context_features
    return x, torch.randn(rows, size, dtype=torch.float64, requires_grad=True) if size else None


def by_autograd(net: nn.Module, x: Tensor, context: Tensor | None) -> Linearization:
    point = x.clone().requires_grad_()
    return Linearization(point, net(point) if context is None else net(point, context))


@pytest.fixture(params=[False, True], ids=["whole", "in-parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that fit the cache, and batches that are cut into parts of 16 rows."""
    if request.param:
        monkeypatch.setattr(chain_module, "CACHED", 1)


@pytest.fixture(params=[3, 0], ids=["folded", "unfolded"])
def folding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last two matrices as one for each output, for however few rows, or never."""
    monkeypatch.setattr(chain_module, "_FEW_OUTPUTS", request.param)
    monkeypatch.setattr(tape, "_FOLDED_FROM", 0)


@pytest.mark.usefixtures("parts", "folding")
def test_products_are_those_of_the_net(net: LipschitzMLP) -> None:
    x, context = draw(net)
    by_hand, other = linearize(net, x, context), by_autograd(net, x, context)
    v = torch.randn_like(x)
    assert chain_of(net, x, context) is not None
    for name in ("value", "x"):
        torch.testing.assert_close(getattr(by_hand, name), getattr(other, name))
    torch.testing.assert_close(by_hand.jacobian(), other.jacobian())
    torch.testing.assert_close(by_hand.vjp(v), other.vjp(v))


@pytest.mark.usefixtures("parts", "folding")
@pytest.mark.parametrize(
    "of", ["value", "jacobian", "form", "value-and-jacobian", "value-and-form"]
)
def test_gradients_are_those_of_autograd(net: LipschitzMLP, of: str) -> None:
    x, context = draw(net)
    u, v, weights = torch.randn_like(x), torch.randn_like(x), torch.randn(40, 3, 3).double()

    def gradients(point: Linearization) -> tuple[Tensor | None, ...]:
        total = x.new_zeros(())
        if "jacobian" in of:
            total = total + (weights * point.jacobian(create_graph=True)).sum()
        if "form" in of:
            total = total + (weights[:, 0, 0] * point.form(u, v)).sum()
        if "value" in of:
            total = total + (v * point.value).sum()
        inputs = [point.x, *net.parameters(), *([] if context is None else [context])]
        return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)

    by_hand = gradients(linearize(net, x, context))
    for mine, other in zip(by_hand, gradients(by_autograd(net, x, context)), strict=True):
        torch.testing.assert_close(mine, other)


def test_second_derivatives(net: LipschitzMLP) -> None:
    x, context = draw(net, rows=2)

    def jacobian(x: Tensor) -> tuple[Tensor, Tensor]:
        point = linearize(net, x, context)
        return point.jacobian(create_graph=True), point.value

    assert gradcheck(jacobian, (x.requires_grad_(),))
    assert gradgradcheck(jacobian, (x,))


@pytest.mark.usefixtures("parts")
def test_evaluation_without_a_graph(net: LipschitzMLP) -> None:
    x, context = draw(net)
    chain = chain_of(net, x, context)
    assert isinstance(chain, Chain)
    before = x.clone()
    torch.testing.assert_close(chain(x), net(x) if context is None else net(x, context))
    assert torch.equal(x, before)
    assert not chain(x).requires_grad


def test_another_default_device_is_left_alone() -> None:
    net, x = LipschitzMLP(2, (8,)).eval(), torch.randn(5, 2)
    chain = chain_of(net, x, None)
    assert isinstance(chain, Chain)
    with torch.device("meta"):
        found = chain(x)
    torch.testing.assert_close(found, net(x).detach())


def test_no_rows_and_frozen_parameters() -> None:
    net = LipschitzMLP(3, (8, 5)).double().eval().requires_grad_(requires_grad=False)
    assert linearize(net, torch.zeros(0, 3).double()).jacobian().shape == (0, 3, 3)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(linearize(net, x).jacobian(create_graph=True).sum(), x)
    assert bool((grad != 0).any())


class Doubled(LipschitzMLP):
    """A net of somebody who has changed what it does."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return 2 * super().forward(x, context)


class Cubed(Sin):
    """An activation of somebody who has changed what it does."""

    def core(self, x: Tensor) -> Tensor:
        return super().core(x) ** 3 / 3


def test_other_code_in_a_part_of_a_net_is_heeded() -> None:
    x = torch.randn(4, 3)
    net = LipschitzMLP(3, (8,))
    net.activations[0] = Cubed()
    assert chain_of(net, x, None) is None
    for name, part in (("forward", ""), ("forward", "layers.0"), ("core", "activations.0")):
        net = LipschitzMLP(3, (8,))
        module = net.get_submodule(part)
        setattr(module, name, getattr(module, name))
        assert chain_of(net, x, None) is None, (name, part)
    net = LipschitzMLP(3, (8,))
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert chain_of(net, x, None) is None
    hook.remove()
    assert chain_of(net, x, None) is not None


def test_other_code_in_a_net_is_heeded() -> None:
    x = torch.randn(4, 3)
    assert chain_of(Doubled(3, (8,)), x, None) is None
    watched = LipschitzMLP(3, (8,))
    watched.layers[0].register_forward_hook(lambda *_: None)
    assert chain_of(watched, x, None) is None
    assert chain_of(LipschitzMLP(3, (8,), "clipswish"), x, None) is None
    assert chain_of(LipschitzMLP(3, ()), x, None) is None
    net = LipschitzMLP(3, (8,))
    with torch.autocast("cpu", torch.bfloat16):
        assert chain_of(net, x, None) is None


@pytest.mark.parametrize("method", ["auto", "newton"])
@pytest.mark.parametrize("features", [4, 16])
def test_newton_knows_the_slopes_of_a_chain(features: int, method: str) -> None:
    """A symmetric net as steep as its bound allows, where plain iteration takes thousands."""
    net = LipschitzMLP(features, (64,), lipschitz=0.9999).double().eval()
    first, last = net.layers
    with torch.no_grad():
        first.weight.mul_(10)
        last.weight.copy_(-first.weight.mT)
        first.bias.zero_()
        last.bias.zero_()
    block = ResFlowTransform(net, solver=Solver(method))
    x = 0.01 * torch.randn(6, features, dtype=torch.float64)
    with monitor.record() as events:
        found = block.decode(block.encode(x))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)
    ((_, figures),) = (event for event in events if event[0] == "root")
    assert figures["steps"] < 60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_slopes_far_out(dtype: torch.dtype) -> None:
    h = torch.tensor([-1e30, -1e9, -50, 0, 3, 50, 3e7, 1e9, 1e18, 1e30], dtype=dtype)
    value, slope, kept = torch.empty_like(h), h.clone(), torch.empty_like(h)
    SiLU().record(slope, value, kept)
    torch.testing.assert_close(value, torch.nn.functional.silu(h))
    point = h.clone().requires_grad_()
    (expected,) = torch.autograd.grad(torch.nn.functional.silu(point).sum(), point)
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("by_numpy", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sines_are_right_to_the_last_place(
    dtype: torch.dtype, threads: int, by_numpy: bool, monkeypatch
) -> None:
    monkeypatch.setattr(elementwise, "_BY_NUMPY", by_numpy)
    h = torch.cat([torch.randn(500) * 10.0**k for k in range(-6, 9)]).to(dtype)
    value, slope = torch.empty_like(h), h.clone()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        Sine().record(slope, value, value)
        alone = Sine().overwrite(h.clone())
    finally:
        torch.set_num_threads(before)
    for found, function in ((value, torch.sin), (slope, torch.cos)):
        exact = function(h.double())
        rounding = torch.finfo(dtype).eps * exact.abs().clamp(min=torch.finfo(dtype).tiny)
        assert bool(((found.double() - exact).abs() <= rounding).all())
    assert torch.equal(alone, value)


@pytest.mark.parametrize("by_numpy", [False, True])
def test_sines_of_infinity_are_nan_in_silence(by_numpy: bool, monkeypatch) -> None:
    monkeypatch.setattr(elementwise, "_BY_NUMPY", by_numpy)
    h = torch.tensor([math.inf, -math.inf, math.nan, 1e-20])
    with np.errstate(all="raise"):
        assert Sine().overwrite(h).isnan().tolist() == [True, True, True, False]


@pytest.mark.parametrize("make", [ResFlowTransform, ImpFlowTransform])
def test_gradients_are_laid_out_like_parameters(make: Any) -> None:
    block = make(*(LipschitzMLP(2, (16, 16)) for _ in range(1 + (make is ImpFlowTransform))))
    z, logdet = block(torch.randn(20, 2))
    parameters = [p for p in block.parameters() if p.requires_grad]
    grads = torch.autograd.grad(z.sum() + logdet.sum(), parameters)
    assert [g.stride() for g in grads] == [p.stride() for p in parameters]


def test_lengths_of_rows_are_not_rounded_by_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it would compute products in a narrower type; on a CPU it leaves them alone."""
    monkeypatch.setattr(torch, "mv", lambda *_: pytest.fail("a product under autocast"))
    x = torch.randn(2000, 3)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(norm(x), torch.linalg.vector_norm(x, dim=1))


@pytest.mark.parametrize("features", [2, 4])
@pytest.mark.parametrize("make", [ResFlowTransform, ImpFlowTransform])
def test_a_backward_pass_within_autocast_is_not_rounded(make: Any, features: int) -> None:
    nets = [LipschitzMLP(features, (16, 16)) for _ in range(1 + (make is ImpFlowTransform))]
    block, x = make(*nets), torch.randn(20, features, requires_grad=True)

    def gradients(*, narrow: bool) -> tuple[Tensor, ...]:
        z, logdet = block.inverse(x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            return torch.autograd.grad(z.sum() + logdet.sum(), (x, *block.parameters()))

    block.eval()
    for plain, other in zip(gradients(narrow=False), gradients(narrow=True), strict=True):
        assert torch.equal(plain, other)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_values_without_a_graph_are_those_with_one(net: LipschitzMLP, mode: Any) -> None:
    x, context = draw(net)
    block = ResFlowTransform(net.float()).eval()
    x, context = x.float(), None if context is None else context.detach().float()
    expected = block.encode(x, context)
    assert expected.requires_grad
    with mode():
        torch.testing.assert_close(block.encode(x, context), expected.detach())


class _WithinANet(nn.Module):
    """A block as part of a net, its context made of the net's own input."""

    def __init__(self, part: str) -> None:
        super().__init__()
        nets = [LipschitzMLP(2, (16,), "sin", 0.5, context_features=2) for _ in range(2)]
        self.block, self.part = ImpFlowTransform(*nets, logdet="exact").double().eval(), part
        for net in nets:
            for parameter in net.context_layers.parameters():
                parameter.data.mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        found = getattr(self.block, self.part)(x[:, :2], x[:, 2:])
        return 0.05 * (found if isinstance(found, Tensor) else found[0]).repeat(1, 2)


@pytest.mark.parametrize("part", ["encode", "decode", "forward", "inverse"])
def test_a_context_made_within_a_net_counts_in_its_jacobian(part: str) -> None:
    block = ResFlowTransform(_WithinANet(part), "exact").double().eval()
    x = torch.randn(3, 4, dtype=torch.float64)
    with torch.no_grad():
        _, found = block(x)
    torch.testing.assert_close(found, dense_logdet(block.encode, x), rtol=0, atol=1e-9)
