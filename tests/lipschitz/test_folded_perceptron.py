"""Folded perceptrons are the nets they come from; what is derived by hand agrees with autograd."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from impflow_zoo import ImpFlowTransform, LipschitzMLP, ResFlowTransform, Solver
from impflow_zoo.lipschitz import folded_perceptron
from impflow_zoo.lipschitz.activations import Sin
from impflow_zoo.lipschitz.derivatives import SiLU, in_place
from impflow_zoo.lipschitz.folded_perceptron import FoldedPerceptron
from impflow_zoo.lipschitz.published_nets import PublishedMLP
from impflow_zoo.numerics.folded import FoldedModule, FoldedNet, Negated, fold
from impflow_zoo.numerics.report import Report
from impflow_zoo.testing import dense_logdet

NETS: dict[str, dict[str, Any]] = {
    "sin": {},
    "silu": {"activation": "lipswish"},
    "silu-preactivation": {"activation": "lipswish", "preactivation": True},
    "sin-context": {"context_features": 2},
    "norms": {"norm": "2f12"},
}


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> LipschitzMLP:
    settings = NETS[request.param]
    kind = LipschitzMLP if settings.keys() <= {"activation", "context_features"} else PublishedMLP
    return kind(3, (8, 5), lipschitz=0.9, **settings).double().eval()


def draw(net: LipschitzMLP, rows: int = 40) -> tuple[Tensor, Tensor | None]:
    x = torch.randn(rows, 3, dtype=torch.float64)
    size = net.context_features
    return x, torch.randn(rows, size, dtype=torch.float64, requires_grad=True) if size else None


def by_autograd(net: nn.Module, context: Tensor | None) -> FoldedNet:
    return FoldedModule(net, context)


@pytest.fixture(params=[False, True], ids=["whole", "in-parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that fit the cache, and batches that are cut into parts of 16 rows."""
    if request.param:
        monkeypatch.setattr(folded_perceptron, "_CACHED", 1)


@pytest.mark.usefixtures("parts")
def test_products_are_those_of_the_net(net: LipschitzMLP) -> None:
    x, context = draw(net)
    folded = fold(net, context)
    by_hand, other = folded.linearize(x), by_autograd(net, context).linearize(x)
    v = torch.randn_like(x)
    assert type(folded) is FoldedPerceptron
    torch.testing.assert_close(by_hand.value, other.value)
    torch.testing.assert_close(by_hand.jacobian(), other.jacobian())
    torch.testing.assert_close(by_hand.vjp(v), other.vjp(v))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("of", ["value", "jacobian", "form"])
def test_gradients_are_those_of_autograd(net: LipschitzMLP, of: str) -> None:
    x, context = draw(net)
    u, v, weights = torch.randn_like(x), torch.randn_like(x), torch.randn(40, 3, 3).double()

    def gradients(folded: FoldedNet) -> tuple[Tensor | None, ...]:
        inputs = x.clone().requires_grad_()
        point = folded.linearize(inputs)
        seeds = {"value": None, "jacobian": point.unit_vectors(), "form": u[:, None]}[of]
        value, products = folded.attach(inputs, seeds, point)
        total = (weights[:, : products.shape[1]] * products).sum() + (v * value).sum()
        wanted = [inputs, *net.parameters(), *([] if context is None else [context])]
        return torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)

    by_hand = gradients(fold(net, context))
    for mine, other in zip(by_hand, gradients(by_autograd(net, context)), strict=True):
        torch.testing.assert_close(mine, other)


def test_second_derivatives(net: LipschitzMLP) -> None:
    x, context = draw(net, rows=2)

    def jacobian(x: Tensor) -> tuple[Tensor, Tensor]:
        folded = fold(net, context)
        point = folded.linearize(x)
        value, products = folded.attach(x, point.unit_vectors(), point)
        return products, value

    assert gradcheck(jacobian, (x.requires_grad_(),))
    assert gradgradcheck(jacobian, (x,))


@pytest.mark.usefixtures("parts")
def test_evaluation_without_a_graph(net: LipschitzMLP) -> None:
    x, context = draw(net)
    folded, before = fold(net, context), x.clone()
    found = folded.value(x)
    torch.testing.assert_close(found, net(x) if context is None else net(x, context))
    assert torch.equal(x, before)
    assert not found.requires_grad
    rows = torch.tensor([3, 0, 7])
    torch.testing.assert_close(folded.rows(rows).value(x[rows]), found[rows])
    torch.testing.assert_close(Negated(folded).value(x), -found)


def test_another_default_device_is_left_alone() -> None:
    net, x = LipschitzMLP(2, (8,)).eval(), torch.randn(5, 2)
    folded = fold(net, None)
    with torch.device("meta"):
        found = folded.value(x)
    torch.testing.assert_close(found, net(x).detach())


def test_no_rows_and_frozen_parameters() -> None:
    net = LipschitzMLP(3, (8, 5)).double().eval().requires_grad_(requires_grad=False)
    folded = fold(net, None)
    assert folded.linearize(torch.zeros(0, 3).double()).jacobian().shape == (0, 3, 3)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    point = folded.linearize(x)
    _, jacobian = folded.attach(x, point.unit_vectors(), point)
    (grad,) = torch.autograd.grad(jacobian.sum(), x)
    assert bool((grad != 0).any())


class Doubled(LipschitzMLP):
    """A net of somebody who has changed what it does."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return 2 * super().forward(x, context)


class Cubed(Sin):
    """An activation of somebody who has changed what it does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 3 / 3


def fast(net: nn.Module) -> bool:
    folded = fold(net, None)
    x = torch.randn(4, 3)
    torch.testing.assert_close(folded.value(x), net(x).detach())
    return isinstance(folded, FoldedPerceptron)


def test_other_code_in_a_part_of_a_net_is_heeded() -> None:
    net = LipschitzMLP(3, (8,)).eval()
    net.activations[0] = Cubed()
    assert not fast(net)
    for part in ("", "activations.0"):
        net = LipschitzMLP(3, (8,)).eval()
        assert fast(net)
        module = net.get_submodule(part)
        module.forward = module.forward
        assert not fast(net), part


def test_other_code_in_a_net_is_heeded() -> None:
    assert not fast(Doubled(3, (8,)).eval())
    watched = LipschitzMLP(3, (8,)).eval()
    watched.register_forward_hook(lambda *_: None)
    assert not fast(watched)
    assert not fast(LipschitzMLP(3, (8,), "clipswish").eval())
    assert not fast(LipschitzMLP(3, ()).eval())
    with torch.autocast("cpu", torch.bfloat16):
        assert not isinstance(fold(LipschitzMLP(3, (8,)), None), FoldedPerceptron)


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
    report = Report()
    found, _ = block.run(block.encode(x), backwards=True, want_logdet=False, report=report)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)
    assert float(report.roots[0].steps.float().mean()) < 60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_slopes_far_out(dtype: torch.dtype) -> None:
    h = torch.tensor([-1e30, -1e9, -50, 0, 3, 50, 3e7, 1e9, 1e18, 1e30], dtype=dtype)
    value, slope, kept = torch.empty_like(h), h.clone(), torch.empty_like(h)
    SiLU().record(slope, value, kept)
    torch.testing.assert_close(value, torch.nn.functional.silu(h))
    point = h.clone().requires_grad_()
    (expected,) = torch.autograd.grad(torch.nn.functional.silu(point).sum(), point)
    torch.testing.assert_close(slope, expected)


@pytest.fixture(params=["", "numpy"], ids=["torch", "numpy"])
def sines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whom sines are computed."""
    monkeypatch.setenv("IMPFLOW_ZOO_SINES", request.param)


@pytest.mark.usefixtures("sines")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sines_are_right_to_the_last_place(dtype: torch.dtype) -> None:
    h = torch.cat([torch.randn(500) * 10.0**k for k in range(-6, 9)]).to(dtype)
    value, slope = torch.empty_like(h), h.clone()
    in_place(torch.sin).record(slope, value, value)
    for found, function in ((value, torch.sin), (slope, torch.cos)):
        exact = function(h.double())
        rounding = torch.finfo(dtype).eps * exact.abs().clamp(min=torch.finfo(dtype).tiny)
        assert bool(((found.double() - exact).abs() <= rounding).all())
    assert torch.equal(in_place(torch.sin).overwrite(h.clone()), value)


@pytest.mark.usefixtures("sines")
def test_sines_of_infinity_are_nan_in_silence() -> None:
    h = torch.tensor([math.inf, -math.inf, math.nan, 1e-20])
    with np.errstate(all="raise"):
        assert in_place(torch.sin).overwrite(h).isnan().tolist() == [True, True, True, False]


@pytest.mark.parametrize("make", [ResFlowTransform, ImpFlowTransform])
def test_gradients_are_laid_out_like_parameters(make: Any) -> None:
    block = make(*(LipschitzMLP(2, (16, 16)) for _ in range(1 + (make is ImpFlowTransform))))
    z, logdet = block(torch.randn(20, 2))
    parameters = [p for p in block.parameters() if p.requires_grad]
    grads = torch.autograd.grad(z.sum() + logdet.sum(), parameters)
    assert [g.stride() for g in grads] == [p.stride() for p in parameters]


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
