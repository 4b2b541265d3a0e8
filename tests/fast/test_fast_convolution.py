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
from impflow_zoo.fast.convolution import FastConvolutions, is_narrow
from impflow_zoo.lipschitz.activations import both_silu, half_sine
from impflow_zoo.lipschitz.bound_layers import BoundLayers
from impflow_zoo.numerics.bound import Linearization
from impflow_zoo.transforms.binding import bind

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


def one_layer(kind: type[BoundLayers], weight: Tensor, bias: Tensor, outer: Tensor) -> Any:
    """A convolution, SiLU, and another convolution."""
    return kind((), [functional.silu], [weight, outer], [bias, bias.new_zeros(len(outer))])


@pytest.mark.parametrize("channels", [3, 7], ids=["few-channels", "more"])
def test_to_second_order(channels: int) -> None:
    weight, bias = torch.randn(channels, 2, 3, 3).double(), torch.randn(channels).double()
    last = torch.randn(2, channels, 3, 3).double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    inputs = tuple(t.requires_grad_() for t in (x, weight, bias, last))

    def fast(x: Tensor, *tensors: Tensor) -> Tensor:
        return one_layer(FastConvolutions, *tensors).in_graph(x)

    assert gradcheck(fast, inputs, fast_mode=True)
    assert gradgradcheck(fast, inputs, fast_mode=True)
    torch.testing.assert_close(fast(*inputs), one_layer(BoundLayers, *inputs[1:]).in_graph(x))


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_second_derivatives_of_silu(format: Any) -> None:
    x, seed, other = torch.randn(3, 3, 2, 4, 4).double().unbind()
    x = x.contiguous(memory_format=format).requires_grad_()
    fast, found = FastConvolutions((2, 4, 4), [], [], []), []
    for function in (lambda t: fast.apply(functional.silu, t), functional.silu):
        (slope,) = torch.autograd.grad(function(x), x, seed, create_graph=True)
        found.append(torch.autograd.grad(slope, x, other)[0])
    torch.testing.assert_close(*found)


def test_products_with_one_jacobian_in_any_order() -> None:
    fast = FastConvolutions((2, 4, 4), [], [], [])
    x, *seeds = torch.randn(4, 3, 2, 4, 4, dtype=torch.float64).unbind()
    y, expected = fast.apply(functional.silu, x.requires_grad_()), functional.silu(x)
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
        found = FastConvolutions((inner, *size), [], [weight], [bias]).in_graph(x)
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


@pytest.mark.parametrize("function", [functional.silu, both_silu, torch.sin, half_sine])
def test_functions_that_it_knows(function: Callable[[Tensor], Tensor]) -> None:
    """Values, and products with three derivatives, are those of torch."""
    fast = FastConvolutions((2, 4, 4), [], [], [])
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        torch.testing.assert_close(fast.apply(function, x.clone()), function(x))
    found, expected = fast.apply(function, x), function(x)
    for _ in range(3):
        torch.testing.assert_close(found, expected)
        t = torch.randn_like(found)
        for kept in (True, False):  # without a graph first
            grads = [
                torch.autograd.grad(value, x, t, retain_graph=True, create_graph=not kept)[0]
                for value in (found, expected)
            ]
            torch.testing.assert_close(*grads)
        found, expected = grads


@pytest.mark.parametrize("name", NETS)
def test_a_bound_net_is_the_net(name: str) -> None:
    net = NETS[name]().double().eval()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    size = net.context_features
    context = torch.randn(3, size, dtype=torch.float64) if size else None
    bound = bind(net, context)
    assert type(bound) is FastConvolutions
    expected = net(x) if context is None else net(x, context)
    rows = torch.tensor([2, 0])
    for found in (bound.value(x), bound.in_graph(x), -bound.negated().value(x)):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(bound.rows(rows).value(x[rows]), expected[rows])


def test_products_want_no_gradients_of_weights() -> None:
    net = NETS["conv"]().double().eval()
    bound = bind(net, None)
    assert isinstance(bound, FastConvolutions)
    x, v = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64).unbind()
    point = bound.linearize(x)
    plain = Linearization(bound, point.x, BoundLayers.in_graph(bound, point.x))
    torch.testing.assert_close(point.vjp(v), plain.vjp(v))
    assert bound.wants_weights
    with bound.products_only():
        assert not bound.wants_weights
