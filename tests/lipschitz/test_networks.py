"""Lipschitz nets and certificates, against dense references."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from support.blocks import NETS
from support.slopes import spectral_norm
from torch import nn

from impflow_zoo import (
    ImpFlowTransform,
    LipschitzConvNet,
    LipschitzMLP,
    ResFlowTransform,
    SandwichMLP,
)
from impflow_zoo.lipschitz.activations import ACTIVATIONS, LipSwish
from impflow_zoo.lipschitz.certify import certify
from impflow_zoo.lipschitz.norms import refresh_norms
from impflow_zoo.testing.case import tighten

every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


# --- training and loading -------------------------------------------------------------------------


def optimise(net, steps=20, rate=0.1):
    """Steps that try to make the net as steep as they can."""
    optimiser = torch.optim.SGD(net.parameters(), lr=rate)
    for _ in range(steps):
        x = torch.randn(16, net.features, dtype=torch.float64)
        optimiser.zero_grad()
        (-(net(x) - net(-x)).square().sum()).backward()
        optimiser.step()


def test_after_training_the_bound_holds_at_once():
    """There is nothing to call after the last step of the optimiser."""
    net = LipschitzMLP(4, (16, 16), "lipswish", 0.9).double().train()
    optimise(net)
    net.eval()
    share = 0.9 ** (1 / 3)
    for layer in net.layers:
        assert spectral_norm(layer.weight) > share
        assert spectral_norm(layer.normalised_weight()) == pytest.approx(share, rel=1e-10)


def test_while_training_the_bound_holds_nearly():
    """Power iteration is from below; with a few iterations a step the excess is small."""
    net = LipschitzMLP(4, (16, 16), "lipswish", 0.9).double().train()
    worst = 0.0
    for _ in range(20):
        optimise(net, steps=1)
        for layer in net.layers:
            norm = torch.linalg.matrix_norm(layer.normalised_weight(), 2).item()
            worst = max(worst, norm / 0.9 ** (1 / 3))
    assert worst <= 1.01


def test_a_loaded_net_is_bit_equal_to_the_saved_one():
    for training in (True, False):
        net = LipschitzMLP(4, (16, 16), "lipswish", 0.9).train(training)
        tighten(net)
        x = torch.randn(7, 4)
        net(x)
        state = copy.deepcopy(net.state_dict())
        other = LipschitzMLP(4, (16, 16), "lipswish", 0.9)
        other.load_state_dict(state)
        assert torch.equal(net.eval()(x), other.eval()(x))
        refresh_norms(net)
        other.load_state_dict(net.state_dict())
        assert torch.equal(net(x), other(x))
        for key, tensor in net.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[key]), key


def test_refreshed_norms_are_exact():
    net = LipschitzMLP(4, (16,), "sin", 0.9).double()
    tighten(net, 3)
    refresh_norms(net)
    for layer in net.layers:
        norm = torch.linalg.matrix_norm(layer.weight, 2)
        assert layer.attained().item() == pytest.approx(norm.item())


# --- nets -----------------------------------------------------------------------------------------


def quotient(net, p, context=None, pairs=4000):
    """The largest difference quotient of a net over near and far pairs."""
    shape = getattr(net, "shape", None) or (net.features,)
    x = 2 * torch.randn(pairs, *shape, dtype=torch.float64)
    scale = torch.logspace(-3, 1, pairs, dtype=torch.float64)
    y = x + scale.view(-1, *[1] * len(shape)) * torch.randn_like(x)
    extra = () if context is None else (context.expand(pairs, -1),)
    rise, run = (net(x, *extra) - net(y, *extra)).flatten(1), (x - y).flatten(1)
    return float((rise.norm(p, dim=1) / run.norm(p, dim=1)).max())


@every_activation
@pytest.mark.parametrize("lipschitz", [0.3, 0.99, 2.0])
def test_the_bound_of_the_whole_net(name, lipschitz):
    net = LipschitzMLP(4, (16, 8), name, lipschitz).double().eval()
    tighten(net, 50)
    with torch.no_grad():
        assert quotient(net, 2) <= lipschitz * (1 + 1e-9)
    assert net.certificate() == pytest.approx(lipschitz)
    assert net.certificate() <= lipschitz * (1 + 1e-9)
    assert net.lipschitz == lipschitz


def test_the_bound_is_nearly_attained():
    """A net of one feature whose weights agree comes close: the bound is not a loose one."""
    net = LipschitzMLP(1, (1,), "elu", 0.9).double().eval()
    with torch.no_grad():
        for layer in net.layers:
            layer.weight.fill_(100.0)
        assert quotient(net, 2) == pytest.approx(0.9, rel=1e-9)


def test_small_nets_are_certified_below_their_bound():
    net = LipschitzMLP(4, (16,), "sin", 0.9).double()
    tighten(net, 0.1)
    assert 0 < net.certificate() < 0.05


def test_the_bound_holds_for_every_context():
    net = LipschitzMLP(4, (16, 8), "lipswish", 0.9, context_features=3).double().eval()
    tighten(net, 50)
    x = torch.randn(5, 4, dtype=torch.float64)
    outputs = []
    for size in (0.0, 1.0, 100.0):
        context = size * torch.randn(1, 3, dtype=torch.float64)
        with torch.no_grad():
            assert quotient(net, 2, context) <= 0.9 * (1 + 1e-9)
            outputs.append(net(x, context.expand(5, -1)))
    assert not torch.allclose(outputs[0], outputs[1])


def test_a_net_without_contexts_ignores_them():
    net = LipschitzMLP(4, (8,))
    x = torch.randn(5, 4)
    assert torch.equal(net.eval()(x, torch.randn(5, 7)), net(x))


def test_a_net_without_hidden_layers_is_linear():
    net = LipschitzMLP(3, (), lipschitz=0.5).double().eval()
    tighten(net, 20)
    x, y = torch.randn(2, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(net(x + y) + net(torch.zeros_like(x)), net(x) + net(y))
    assert net.certificate() == pytest.approx(0.5)


def test_normalisation_under_autocast_keeps_its_type():
    net = LipschitzMLP(3, (8,), lipschitz=0.9).eval()
    tighten(net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = [layer.normalised_weight() for layer in net.layers]
        assert net(torch.randn(2, 3)).dtype == torch.bfloat16
    assert all(w.dtype == torch.float32 for w in weights)
    assert all(torch.linalg.matrix_norm(w, 2) <= 0.9**0.5 * (1 + 1e-6) for w in weights)


# --- certificates ---------------------------------------------------------------------------------


class _Wide(nn.Linear):
    def certificate(self) -> float:
        return 1.5


def test_certify_lists_every_net():
    block = ImpFlowTransform(LipschitzMLP(3, (8,), lipschitz=0.5), NETS["user"].make())
    inner = ResFlowTransform(_Wide(3, 3))
    tighten(block)
    certificates = certify(nn.ModuleDict({"a": block, "b": nn.Sequential(inner)}))
    assert [c.name for c in certificates] == ["a.net_x", "a.net_z", "b.0.net"]
    proven, unknown, wide = certificates
    assert proven.bound == pytest.approx(0.5)
    assert proven.margin == pytest.approx(0.5)
    exact = replace(proven, bound=0.5)  # the last printed digit of the bound is rounding
    assert str(exact) == "a.net_x: Lip <= 0.500000 (2-norm), margin 0.500000"
    assert unknown.bound is None
    assert unknown.margin is None
    assert str(unknown) == "a.net_z: not certified"
    assert wide.bound == pytest.approx(1.5)
    assert wide.margin is None
    exact = replace(wide, bound=1.5)
    assert str(exact).startswith("b.0.net: Lip <= 1.500000, not certified")


@pytest.mark.parametrize("name", [n for n, net in NETS.items() if "user" not in n])
def test_certificates_are_true(name):
    net = NETS[name].make().double()
    tighten(net)
    context = None if NETS[name].context is None else torch.randn(1, NETS[name].context).double()
    bound = net.train().certificate()  # whatever the mode
    assert net.training
    with torch.no_grad():
        assert quotient(net.eval(), NETS[name].p, context) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("beta", [-52.0, -200.0])
def test_a_slope_learned_away_leaves_finite_gradients(beta):
    activation = LipSwish()
    torch.nn.init.constant_(activation.beta, beta)
    x = torch.linspace(-3, 3, 7, requires_grad=True)
    y = activation(x)
    y.square().sum().backward()
    torch.testing.assert_close(y, x / 2.2, atol=1e-3, rtol=0)
    assert bool(x.grad.isfinite().all())
    assert bool(activation.beta.grad.isfinite().all())


def test_gradients_of_an_activation_that_alone_is_trained():
    net = SandwichMLP(2, (8, 8), activation="shifted-lipswish")
    block, x = ResFlowTransform(net), torch.randn(4, 2)
    for name, parameter in block.named_parameters():
        parameter.requires_grad_("beta" in name)
    z, logabsdet = block(x)
    (z.sum() + logabsdet.sum() + block.decode(x).sum()).backward()
    assert all(bool(p.grad.any()) for p in block.parameters() if p.requires_grad)


def test_norms_of_a_parametrised_layer_need_no_refresh():
    net = SandwichMLP(2, (8,)).eval()
    nn.utils.parametrize.register_parametrization(net.layers[0], "weight", nn.Identity())
    before = net(torch.ones(1, 2))
    refresh_norms(net)
    assert torch.equal(net(torch.ones(1, 2)), before)


@pytest.mark.parametrize("kind", [LipschitzMLP, SandwichMLP])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_weights_assigned_to_a_net_without_storage(kind, mode):
    source = kind(3, (8,)).eval()
    x = torch.randn(2, 3)
    with torch.device("meta"):
        net = kind(3, (8,)).eval()
    net.load_state_dict(source.state_dict(), assign=True)
    with mode():
        assert torch.equal(net(x), source(x))
    net.train()(x).sum().backward()


@pytest.mark.parametrize(
    "make", [partial(LipschitzMLP, 3, (9,)), partial(LipschitzConvNet, 2, (4, 4), 6)]
)
def test_bounds_are_proved_within_autocast_too(make):
    torch.manual_seed(0)
    block = ResFlowTransform(make(lipschitz=0.9))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(5)
    (outside,) = certify(block)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (within,) = certify(block)
    assert within.bound == outside.bound <= 0.9 * 1.001
