"""Convolutions differentiated by hand are those of torch, to second order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from impflow_zoo import LipschitzConvNet, LipschitzDenseNet
from impflow_zoo.lipschitz import folded_convolutions
from impflow_zoo.lipschitz.activations import both_silu, half_sine
from impflow_zoo.lipschitz.folded_convolutions import (
    FoldedConvolutions,
    activated,
    is_narrow,
    overwritten,
)
from impflow_zoo.lipschitz.folded_layers import FoldedLayers
from impflow_zoo.numerics.folded import FoldedModule, Negated, fold

NETS: dict[str, Any] = {
    "conv": lambda: LipschitzConvNet(2, (4, 4), 8, lipschitz=0.9),
    "preactivation": lambda: LipschitzConvNet(2, (4, 4), 8, activation="elu", preactivation=True),
    "context": lambda: LipschitzConvNet(2, (4, 4), 8, context_features=2),
    "relu": lambda: LipschitzConvNet(2, (4, 4), 8, (3, 3), "relu"),
    "frequency": lambda: LipschitzConvNet(2, (4, 4), 8, preactivation=True, frequency=3.0),
    "sines": lambda: LipschitzConvNet(2, (4, 4), 8, activation="sin"),
    "half-sines": lambda: LipschitzConvNet(2, (4, 4), 8, activation="halfsin", frequency=0.4),
    "dense": lambda: LipschitzDenseNet(2, (4, 4), 3, 2),
}


def one_layer(kind: type[FoldedLayers], weight: Tensor, bias: Tensor, outer: Tensor) -> Any:
    """A convolution, SiLU, and another convolution."""
    return kind((), [functional.silu], [weight, outer], [bias, bias.new_zeros(len(outer))])


@pytest.mark.parametrize("channels", [3, 7], ids=["few-channels", "more"])
def test_to_second_order(channels: int) -> None:
    weight, bias = torch.randn(channels, 2, 3, 3).double(), torch.randn(channels).double()
    last = torch.randn(2, channels, 3, 3).double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    inputs = tuple(t.requires_grad_() for t in (x, weight, bias, last))

    def fast(x: Tensor, *tensors: Tensor) -> Tensor:
        return one_layer(FoldedConvolutions, *tensors).forward(x)

    assert gradcheck(fast, inputs, fast_mode=True)
    assert gradgradcheck(fast, inputs, fast_mode=True)
    torch.testing.assert_close(fast(*inputs), one_layer(FoldedLayers, *inputs[1:]).forward(x))


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_second_derivatives_of_silu(format: Any) -> None:
    x, seed, other = torch.randn(3, 3, 2, 4, 4).double().unbind()
    x = x.contiguous(memory_format=format).requires_grad_()
    found = []
    for function in (lambda t: activated(functional.silu, t)[0], functional.silu):
        (slope,) = torch.autograd.grad(function(x), x, seed, create_graph=True)
        found.append(torch.autograd.grad(slope, x, other)[0])
    torch.testing.assert_close(*found)


def test_products_with_one_jacobian_in_any_order() -> None:
    x, *seeds = torch.randn(4, 3, 2, 4, 4, dtype=torch.float64).unbind()
    y, expected = activated(functional.silu, x.requires_grad_())[0], functional.silu(x)
    batch = torch.stack(seeds)
    for v, batched in ((batch, True), (seeds[0], False), (batch[:2], True), (seeds[1], False)):
        products = [
            torch.autograd.grad(z, x, v, retain_graph=True, is_grads_batched=batched)[0]
            for z in (y, expected)
        ]
        torch.testing.assert_close(*products)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("channels", [1, 3, 6, 7])
@pytest.mark.parametrize("size", [(9, 8), (2, 1)], ids=["large", "smaller-than-kernel"])
def test_few_channels_take_another_way_to_the_same_numbers(
    kernel: int, channels: int, size: tuple[int, int]
) -> None:
    """Values and both gradients, to few channels and from few channels, in torch's formulas."""
    for inner, outer in ((9, channels), (channels, 9)):
        x = torch.randn(2, inner, *size, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(outer, inner, kernel, kernel, dtype=torch.float64, requires_grad=True)
        bias = torch.randn(outer, dtype=torch.float64, requires_grad=True)
        probe = torch.randn(2, outer, *size, dtype=torch.float64)
        found = FoldedConvolutions((inner, *size), [], [weight], [bias]).forward(x)
        expected = functional.conv2d(x, weight, bias, padding=kernel // 2)
        torch.testing.assert_close(found, expected)
        pairs = zip(
            torch.autograd.grad(found, (x, weight, bias), probe),
            torch.autograd.grad(expected, (x, weight, bias), probe),
            strict=True,
        )
        for one, other in pairs:
            torch.testing.assert_close(one, other)
        assert is_narrow(x, weight, outer) == (outer <= 6 and kernel > 1)


@pytest.mark.parametrize("function", [functional.silu, both_silu, torch.sin, half_sine, torch.tanh])
def test_activations(function: Callable[[Tensor], Tensor]) -> None:
    """Values and products of both, with three derivatives, are those of torch."""
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        torch.testing.assert_close(overwritten(function, x.clone()), function(x))
    value, pullback = activated(function, x)
    v = torch.randn_like(value)
    torch.testing.assert_close(value, function(x))
    for graph in (False, True):
        with torch.set_grad_enabled(graph):
            product = pullback(v)
        assert product.requires_grad == graph
    (expected,) = torch.autograd.grad(function(x), x, v, create_graph=True)
    pairs = [(value, function(x)), (product, expected)]
    for found, other in pairs:
        for _ in range(3):
            torch.testing.assert_close(found, other)
            t = torch.randn_like(found)
            for kept in (True, False):  # without a graph first
                grads = [
                    torch.autograd.grad(y, x, t, retain_graph=True, create_graph=not kept)[0]
                    for y in (found, other)
                ]
                torch.testing.assert_close(*grads)
            found, other = grads


@pytest.mark.parametrize("name", NETS)
def test_a_folded_net_is_the_net(name: str) -> None:
    net = NETS[name]().double().eval()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    size = net.context_features
    context = torch.randn(3, size, dtype=torch.float64) if size else None
    folded = fold(net, context)
    assert type(folded) is FoldedConvolutions
    expected = net(x) if context is None else net(x, context)
    rows = torch.tensor([2, 0])
    for found in (folded.value(x), folded.forward(x), -Negated(folded).value(x)):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(folded.rows(rows).value(x[rows]), expected[rows])


@pytest.mark.parametrize("name", NETS)
def test_products_and_their_gradients_are_those_of_autograd(name: str) -> None:
    net = NETS[name]().double().eval()
    size = net.context_features
    context = torch.randn(3, size, dtype=torch.float64) if size else None
    x, v, u = torch.randn(3, 3, 2, 4, 4, dtype=torch.float64).unbind()
    answers = []
    for folded in (fold(net, context), FoldedModule(net, context)):
        inputs = x.clone().requires_grad_()
        point = folded.linearize(inputs)
        value, products = folded.attach(inputs, v.flatten(1)[:, None], point)
        alone = [point.value, point.vjp(v)]
        assert not any(t.requires_grad for t in alone)
        loss = (u * value).sum() + (products[:, 0] * u.flatten(1)).sum()
        grads = torch.autograd.grad(loss, [inputs, *net.parameters()], allow_unused=True)
        answers.append([*alone, value, products, *grads])
    for found, expected in zip(*answers, strict=True):
        if expected is not None and found is not None:
            torch.testing.assert_close(found, expected)
        else:
            assert expected is None or not expected.any()


class Hidden(torch.nn.Module):
    """An activation whose graph does not lead to its input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy()).tanh()


def test_an_activation_that_hides_its_slope_is_refused() -> None:
    folded = fold(LipschitzConvNet(2, (4, 4), 8, activation=Hidden), None)
    x = torch.randn(3, 2, 4, 4)
    with pytest.raises(ValueError, match="graph does not lead to the input"):
        folded.linearize(x).vjp(x)


def test_products_take_no_gradients_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Tensor) -> None:
        raise AssertionError("nobody has asked for gradients of weights")

    monkeypatch.setattr(folded_convolutions, "_weight_gradient", refuse)
    folded = fold(NETS["conv"]().double().eval(), None)
    x, v = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64).unbind()
    point = folded.linearize(x)
    point.vjp(v)
    folded.attach(x, v.flatten(1)[:, None], point)
