"""Chains are the nets they come from; what is derived by hand agrees with autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from impflow_zoo import LipschitzMLP
from impflow_zoo.lipschitz.activations import Sin
from impflow_zoo.numerics import chain as chain_module
from impflow_zoo.numerics.chain import Chain
from impflow_zoo.numerics.linearize import Linearization, chain_of, linearize

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


@pytest.mark.usefixtures("parts")
def test_products_are_those_of_the_net(net: LipschitzMLP) -> None:
    x, context = draw(net)
    by_hand, other = linearize(net, x, context), by_autograd(net, x, context)
    v = torch.randn_like(x)
    assert chain_of(net, x, context) is not None
    for name in ("value", "x"):
        torch.testing.assert_close(getattr(by_hand, name), getattr(other, name))
    torch.testing.assert_close(by_hand.jacobian(), other.jacobian())
    torch.testing.assert_close(by_hand.vjp(v), other.vjp(v))


@pytest.mark.usefixtures("parts")
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
