"""Weights are normalised once a call, and held no longer than that."""

from __future__ import annotations

import contextlib
import copy
import pickle
import threading
from functools import partial

import pytest
import torch
from blocks import build, draw
from torch import nn
from torch.utils.checkpoint import checkpoint

from impflow_zoo import ImpFlowTransform, LipschitzConvNet, LipschitzMLP, ResFlowTransform
from impflow_zoo.lipschitz.norms import LipschitzLinear, held_weights


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
        with held_weights(layer):  # as if nothing were held, for calls that are repeated
            assert layer.normalised_weight() is not held
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
    for module in block.modules():
        assert "_held" not in module.__dict__


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_made_within_a_call_hold_nothing(duplicate):
    """Changes of their parameters would not be seen."""
    layer = tight_layer()
    with held_weights(layer):
        twin = duplicate(layer)
    assert "_held" not in vars(twin)
    with torch.no_grad():
        twin.weight.mul_(0.01)
    torch.testing.assert_close(twin.normalised_weight(), twin.weight)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("logdet", ["auto", "truncated"])
@pytest.mark.parametrize("net", ["rows", "images"])
def test_activations_may_be_computed_again(net, logdet, training):
    """`torch.utils.checkpoint` repeats a call within the call, where its weights are held."""
    torch.manual_seed(0)
    nets, x = [LipschitzMLP(3, (8,), lipschitz=0.9) for _ in range(2)], torch.randn(4, 3)
    if net == "images":
        nets = [LipschitzConvNet(2, (4, 4), 8, lipschitz=0.9) for _ in range(2)]
        x = torch.randn(4, 2, 4, 4)
    block = ImpFlowTransform(*nets, logdet=logdet).train(training)
    parameters = list(block.parameters())
    found = []
    for call in (partial(checkpoint, block, use_reentrant=False), block):
        torch.manual_seed(1)
        z, logabsdet = call(x)
        found.append(torch.autograd.grad(z.sum() + logabsdet.sum(), parameters))
    for again, plain in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-2, atol=1e-3)


def test_calls_of_several_threads_leave_nothing_behind():
    """Also where another thread's call begins while this one is looking which layers are free."""
    looking, begun, second_holds, may_end = (threading.Event() for _ in range(4))
    layer = tight_layer()

    class Slow(nn.Sequential):
        def modules(self):
            yield from super().modules()
            if threading.current_thread() is thread:
                looking.set()
                begun.wait(10)

    net = Slow(layer)

    def hold():
        with held_weights(net):
            second_holds.set()
            may_end.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert looking.wait(10)
    with held_weights(net):
        begun.set()
        assert second_holds.wait(10)
    may_end.set()
    thread.join()
    assert "_held" not in vars(layer)
    with torch.no_grad():
        layer.weight.mul_(0.01)
    torch.testing.assert_close(layer.normalised_weight(), layer.weight)
