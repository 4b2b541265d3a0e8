"""Weights once a call, and nets in evaluation once until something of them changes."""

from __future__ import annotations

import contextlib
import copy
import gc
import threading
import weakref

import pytest
import torch
from blocks import build, draw
from torch import nn

from impflow_zoo import ImpFlowTransform, LipschitzMLP, ResFlowTransform
from impflow_zoo.lipschitz.activations import Sin
from impflow_zoo.lipschitz.held import held_weights
from impflow_zoo.lipschitz.norms import LipschitzLinear
from impflow_zoo.testing.case import tighten


def tight_layer():
    layer = LipschitzLinear(5, 4, 0.9).double().eval()
    with torch.no_grad():
        layer.weight.copy_(3 * torch.randn(4, 5))
    return layer


@pytest.fixture
def normalisations(monkeypatch):
    """Which layers computed their weight, in order."""
    calls = []
    original = LipschitzLinear.fresh_weight

    def counted(self):
        calls.append(self)
        return original(self)

    monkeypatch.setattr(LipschitzLinear, "fresh_weight", counted)
    return calls


@pytest.mark.parametrize("method", ["forward", "inverse", "encode", "decode"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_weights_are_normalised_once_a_call(normalisations, method, training):
    block = build("impflow-sin").train(training)
    x, _ = draw("impflow-sin")
    getattr(block, method)(x)
    layers = [m for m in block.modules() if isinstance(m, LipschitzLinear)]
    assert len(normalisations) == len(layers) == 6
    assert set(normalisations) == set(layers)
    getattr(block, method)(x)
    assert len(normalisations) == 12


def test_nets_on_their_own_normalise_each_time(normalisations):
    net = LipschitzMLP(3, (4,))
    net(torch.randn(2, 3)), net(torch.randn(2, 3))
    assert len(normalisations) == 4


def test_held_weights_end_with_the_block():
    layer = tight_layer()
    with held_weights(layer):
        held = layer.normalised_weight()
        assert layer.normalised_weight() is held
        with held_weights(layer):
            assert layer.normalised_weight() is held
        assert layer.normalised_weight() is held
    assert layer.normalised_weight() is not held


def test_held_weights_end_with_an_error():
    layer = tight_layer()
    with contextlib.suppress(KeyError), held_weights(layer):
        held = layer.normalised_weight()
        raise KeyError
    assert layer.normalised_weight() is not held
    block = ResFlowTransform(LipschitzMLP(3, (4,))).double().eval()
    with pytest.raises(ValueError, match="takes"):
        block(torch.randn(2, 5, dtype=torch.float64))
    with torch.no_grad(), pytest.raises(ValueError, match="takes"):
        block(torch.randn(2, 5, dtype=torch.float64))
    for module in block.modules():
        assert not {"_held", "_held_chain"} & vars(module).keys()


# --- in evaluation, without gradients -------------------------------------------------------------

METHODS = ("forward", "inverse", "encode", "decode")


def net(activation="lipswish", **options):
    made = LipschitzMLP(3, (8, 8), activation, 0.9, **options).double().eval()
    tighten(made, 3)
    return made


def evaluate(block, method, x):
    with torch.no_grad():
        found = getattr(block, method)(x)
    return torch.cat([t.flatten() for t in found]) if isinstance(found, tuple) else found.flatten()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation", ["sin", "lipswish"])
def test_nets_that_have_not_changed_are_not_normalised_again(normalisations, activation, method):
    block = ImpFlowTransform(net(activation), net(activation, preactivation=True))
    x = torch.randn(6, 3).double()
    first = evaluate(block, method, x)
    assert len(normalisations) == 6
    for other in METHODS:
        evaluate(block, other, x)
    assert torch.equal(evaluate(block, method, x), first)
    assert len(normalisations) == 6
    graph = getattr(block, method)(x)
    assert len(normalisations) == 12
    values = torch.cat([t.flatten() for t in graph]) if isinstance(graph, tuple) else graph
    torch.testing.assert_close(values.detach().flatten(), first)


def turn(layer):
    """Power vectors of somebody else's."""
    layer.u.copy_(layer.u.roll(1)), layer.v.copy_(layer.v.roll(1))


CHANGES = {
    "a weight by its data": lambda net: net.layers[1].weight.data.mul_(0.1),
    "one entry": lambda net: net.layers[1].weight.data[3].add_(0.5),
    "another parameter": lambda net: setattr(
        net.layers[0], "weight", nn.Parameter(net.layers[0].weight.detach().roll(1))
    ),
    "a bias by its data": lambda net: net.layers[0].bias.data.add_(1.0),
    "a scale": lambda net: net.activations[0].beta.data.add_(1.0),
    "loading": lambda net: net.load_state_dict(LipschitzMLP(3, (8, 8), "lipswish").state_dict()),
    "power vectors": lambda net: turn(net.layers[1]),
    "the bound of a layer": lambda net: setattr(net.layers[1], "coefficient", 0.5),
    "another activation": lambda net: net.activations.__setitem__(0, Sin()),
    "one of the other activations": lambda net: net.activations[1].load_state_dict(
        {"beta": torch.tensor([2.0])}
    ),
    "another layer": lambda net: net.layers.__setitem__(1, LipschitzLinear(8, 8, 0.5).double()),
    "a hook": lambda net: net.layers[0].register_forward_hook(
        lambda *arguments: 0.1 * arguments[2]
    ),
    "training": lambda net: (net.train(), net(torch.randn(5, 3).double()), net.eval()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", ["forward", "decode"])
def test_every_change_is_noticed(method, change):
    changed = net()
    block, x = ResFlowTransform(changed), torch.randn(6, 3).double()
    before = evaluate(block, method, x)
    with torch.no_grad():
        CHANGES[change](changed)
    block.double().eval()
    after = evaluate(block, method, x)
    assert torch.equal(after, evaluate(copy.deepcopy(block), method, x))
    with torch.enable_grad():
        fresh = getattr(block, method)(x)
    fresh = torch.cat([t.flatten() for t in fresh]) if isinstance(fresh, tuple) else fresh
    torch.testing.assert_close(after, fresh.detach().flatten())
    same = change in ("power vectors", "training")  # where they converge to what they were
    assert torch.allclose(after, before, rtol=0, atol=1e-6) == same


def test_types_and_contexts():
    block, x = ResFlowTransform(net()), torch.randn(6, 3).double()
    exact = evaluate(block, "forward", x)
    narrow = evaluate(block.float(), "forward", x.float())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), exact, rtol=0, atol=1e-5)
    block.double()
    with torch.no_grad():
        ignored = torch.cat([t.flatten() for t in block(x, torch.randn(6, 2).double())])
    torch.testing.assert_close(ignored, evaluate(block, "forward", x), rtol=0, atol=1e-6)
    block = ResFlowTransform(net(context_features=2))
    with torch.no_grad():
        first, second = (block(x, c * torch.ones(6, 2).double())[0] for c in (0.0, 3.0))
    assert not torch.allclose(first, second)


def test_inference_mode_leaves_nothing_that_graphs_could_not_keep():
    block, x = ResFlowTransform(net()), torch.randn(6, 3).double()
    with torch.inference_mode():
        block(x)
    with torch.no_grad():
        block(x)
    point = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(block(point)[1].sum(), point)
    assert bool(grad.isfinite().all())


def test_nets_are_forgotten_and_copied_without_what_is_kept():
    block, x = ResFlowTransform(net()), torch.randn(6, 3).double()
    state = set(vars(block.net))
    evaluate(block, "forward", x)
    assert set(vars(block.net)) == state == set(vars(copy.deepcopy(block).net))
    gone = weakref.ref(block.net)
    del block
    gc.collect()
    assert gone() is None


def test_threads_share_a_block():
    block, x = ImpFlowTransform(net(), net()), torch.randn(64, 3).double()
    expected, found = evaluate(block, "forward", x), []

    def work():
        found.extend(evaluate(block, "forward", x) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    for value in found:
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
