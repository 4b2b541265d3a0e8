"""What a sandwich net keeps in evaluation without gradients, and when it computes it again."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from impflow_zoo import ResFlowTransform, SandwichMLP


def made_with(seed: int) -> SandwichMLP:
    torch.manual_seed(seed)
    return SandwichMLP(3, (6, 5), "shifted-lipswish", context_features=2).eval()


def made() -> tuple[SandwichMLP, Tensor, Tensor]:
    return made_with(0), torch.randn(4, 3), torch.randn(4, 2)


def computed_again(net: SandwichMLP, x: Tensor, context: Tensor) -> Tensor:
    """What the net answers within a graph, for which it keeps nothing."""
    with torch.enable_grad():
        return net(x, context).detach()


def double_weight(net: SandwichMLP) -> None:
    parametrize.register_parametrization(net.layers[1], "weight", Times(2.0))


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


CHANGES = {
    "bound": lambda net: setattr(net, "lipschitz", 0.5),
    "activation": lambda net: net.activations.__setitem__(0, nn.Tanh()),
    "scale of an activation": lambda net: net.activations[0].shifted.beta.add_(1),
    "hook": lambda net: net.activations[1].register_forward_hook(lambda _, x, y: y / 2),
    "parametrization": double_weight,
    "loaded weights": lambda net: net.load_state_dict(made_with(1).state_dict()),
    "weight of another net": lambda net: net.layers[0].load_state_dict(
        SandwichMLP(3, (6,)).layers[0].state_dict(), assign=True
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_a_change_counts(change):
    net, x, context = made()
    before = net(x, context)
    change(net)
    assert not torch.equal(net(x, context), before)
    assert torch.equal(net(x, context), computed_again(net, x, context))


@torch.no_grad()
def test_a_change_of_any_tensor_counts():
    net, x, context = made()
    for name, tensor in net.state_dict().items():
        before = net(x, context)
        tensor.flatten()[-1].add_(0.1)
        assert not torch.equal(net(x, context), before), name
        assert torch.equal(net(x, context), computed_again(net, x, context)), name


@torch.no_grad()
def test_what_a_parametrization_reads_counts():
    net, x, context = made()
    double_weight(net)
    before = net(x, context)
    net.layers[1].parametrizations.weight[0].factor = 3.0
    assert not torch.equal(net(x, context), before)


@torch.no_grad()
def test_layers_with_hooks_are_refused_at_any_time():
    net, x, context = made()
    net(x, context)
    net.layers[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="layer 0 has hooks"):
        net(x, context)


@torch.no_grad()
def test_nothing_is_computed_again_without_a_change(monkeypatch):
    net, x, context = made()
    before = net(x, context)
    monkeypatch.setattr(net, "weights_in_use", None)
    assert torch.equal(net(x, context), before)
    assert not torch.equal(net(x, context + 1), before)  # contexts are none of what is kept


@torch.no_grad()
def test_autocast_leaves_no_trace():
    net, x, context = made()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(x, context)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(net(x, context), computed_again(net, x, context))
    ResFlowTransform(net).eval()(x, context)


@torch.no_grad()
def test_copies_compute_their_own():
    net, x, context = made()
    size = len(pickle.dumps(net))
    before = net(x, context)
    assert len(pickle.dumps(net)) == size
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(copied(x, context), before)
        copied.layers[0].bias.add_(1)
        assert not torch.equal(copied(x, context), before)
    assert torch.equal(net(x, context), before)


def test_what_inference_mode_has_kept_serves_within_a_graph():
    net, x, context = made()
    with torch.inference_mode():
        net(x, context)
    with torch.no_grad():
        bound = net.bind(context)
    x.requires_grad_()
    bound.in_graph(x).sum().backward()
    assert x.grad.isfinite().all()


@torch.no_grad()
def test_another_type_counts():
    net, x, context = made()
    before = net(x, context)
    double = net.double()(x.double(), context.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.float()(x, context), before, rtol=1e-4, atol=1e-5)
