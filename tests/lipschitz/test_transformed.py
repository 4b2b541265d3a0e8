"""Nets under the transforms of `torch.func`, fresh ones and ones that were evaluated before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from impflow_zoo import LipschitzConvNet, LipschitzDenseNet, LipschitzMLP, SandwichMLP
from impflow_zoo.testing.case import tighten

NETS = {
    "spectral": lambda: LipschitzMLP(3, (8, 4), "lipswish", 0.9, frequency=2.0),
    "sandwich": lambda: SandwichMLP(3, (8, 4), "shifted-lipswish", 0.9),
    "convolutions": lambda: LipschitzConvNet(2, (3, 3), 4, lipschitz=0.9),
    "dense": lambda: LipschitzDenseNet(2, (3, 3), 3, 2, lipschitz=0.9),
}
every_net = pytest.mark.parametrize("name", NETS)
every_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
fresh_or_not = pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "evaluated"])


def made(name: str) -> tuple[nn.Module, Tensor]:
    net = NETS[name]().double()
    tighten(net)
    return net, torch.randn(5, *net.shape, dtype=torch.float64)


@every_net
@fresh_or_not
@pytest.mark.parametrize("recorded", [True, False], ids=["gradients", "no-gradients"])
def test_gradients_of_a_functional_call(name: str, fresh: bool, recorded: bool) -> None:
    net, x = made(name)
    other = copy.deepcopy(net).eval()
    expected = torch.autograd.grad(other(x).square().sum(), list(other.parameters()))
    net = net.eval() if fresh else other
    parameters = {key: value.detach() for key, value in net.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, parameters, (x,)).square().sum()

    with torch.set_grad_enabled(recorded):
        found = torch.func.grad(loss)(parameters)
    for a, b in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(a, b)


@every_net
@fresh_or_not
def test_gradients_by_the_input(name: str, fresh: bool) -> None:
    net, x = made(name)
    net.eval()
    if not fresh:
        net(x)
    found = torch.func.grad(lambda x: net(x).square().sum())(x)
    with torch.no_grad():
        before = net(x)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(net(x).square().sum(), x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(before, net(x))


@fresh_or_not
@every_mode
@pytest.mark.parametrize("name", ["spectral", "sandwich"])
def test_nets_side_by_side_by_vmap(name: str, training: bool, fresh: bool) -> None:
    nets = [made(name)[0].train(training) for _ in range(3)]
    x = torch.randn(5, 3, dtype=torch.float64)
    if not fresh:
        for net in nets:
            net(x)
    parameters, buffers = torch.func.stack_module_state(nets)

    def one(*state: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(nets[0], state, (x,))

    together = torch.func.vmap(one)(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([net(x) for net in nets]))


@every_net
def test_rows_of_a_net_by_vmap(name: str) -> None:
    net, x = made(name)
    net.eval()
    found = torch.func.vmap(lambda row: net(row[None])[0])(x)
    torch.testing.assert_close(found, net(x))
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: net(row[None])[0]))(x)
    assert jacobians.shape == (5, *net.shape, *net.shape)
