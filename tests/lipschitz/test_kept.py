"""What a net keeps in evaluation while no gradient flows to it, and when it computes it again."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from impflow_zoo import (
    LipschitzConvNet,
    LipschitzDenseNet,
    LipschitzMLP,
    ResFlowTransform,
    SandwichMLP,
)
from impflow_zoo.lipschitz.convolutions import LipschitzConv2d
from impflow_zoo.lipschitz.net import LipschitzNet
from impflow_zoo.lipschitz.norms import LipschitzLinear, refresh_norms
from impflow_zoo.lipschitz.published_nets import PublishedMLP

KINDS = {
    "sandwich": lambda: SandwichMLP(3, (6, 5), "shifted-lipswish", context_features=2),
    "spectral": lambda: LipschitzMLP(3, (6, 5), "lipswish", context_features=2, frequency=2.0),
    "convolutions": lambda: LipschitzConvNet(
        2, (3, 3), 4, (3, 1, 3), preactivation=True, context_features=2, frequency=2.0
    ),
    "dense": lambda: LipschitzDenseNet(2, (3, 3), 3, 2, activation="lipswish", context_features=2),
}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


def made_with(seed: int, kind: str) -> LipschitzNet:
    torch.manual_seed(seed)
    return KINDS[kind]().eval()


def made(kind: str = "sandwich") -> tuple[LipschitzNet, Tensor, Tensor]:
    net = made_with(0, kind)
    return net, torch.randn(4, *net.shape), torch.randn(4, 2)


def computed_again(net: LipschitzNet, x: Tensor, context: Tensor) -> Tensor:
    """What the net answers within a graph, for which it keeps nothing."""
    with torch.enable_grad():
        return net(x, context).detach()


def shrink_weight(net: LipschitzNet, kind: str = "sandwich") -> None:
    parametrize.register_parametrization(net.layers[1], "weight", Times(0.1))


def lower_bound(net: LipschitzNet, kind: str) -> None:
    if kind == "sandwich":
        net.lipschitz = 0.5
    else:
        net.layers[0].coefficient = 0.1


def change_scale(net: LipschitzNet, kind: str) -> None:
    activation = net.activations[0]
    (activation.shifted if kind == "sandwich" else activation).beta.add_(1)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


CHANGES = {
    "bound": lower_bound,
    "activation": lambda net, _: net.activations.__setitem__(0, nn.Tanh()),
    "scale of an activation": change_scale,
    "hook": lambda net, _: net.activations[1].register_forward_hook(lambda _, x, y: y / 2),
    "parametrization": shrink_weight,
    "loaded weights": lambda net, kind: net.load_state_dict(made_with(1, kind).state_dict()),
    "weight of another net": lambda net, kind: net.layers[0].load_state_dict(
        made_with(1, kind).layers[0].state_dict(), assign=True
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_a_change_counts(change, kind):
    net, x, context = made(kind)
    before = net(x, context)
    change(net, kind)
    assert not torch.equal(net(x, context), before)
    assert torch.equal(net(x, context), computed_again(net, x, context))


@torch.no_grad()
def test_a_change_of_any_tensor_counts(kind):
    net, x, context = made(kind)
    for name, tensor in net.state_dict().items():
        before = net(x, context)
        tensor.flatten()[-1].add_(0.1)
        if name.endswith("vector"):  # it converges again
            torch.testing.assert_close(net(x, context), before)
        else:
            assert not torch.equal(net(x, context), before), name
        assert torch.equal(net(x, context), computed_again(net, x, context)), name


@torch.no_grad()
def test_a_change_of_the_vectors_of_published_layers_counts():
    torch.manual_seed(0)
    net, x = PublishedMLP(3, (6, 5), norm="2222").eval(), torch.randn(4, 3)
    for name, tensor in net.named_buffers():
        if not name.endswith("vector"):
            before = net(x)
            tensor.mul_(3)
            assert not torch.equal(net(x), before), name


@torch.no_grad()
def test_what_a_parametrization_reads_counts():
    net, x, context = made()
    shrink_weight(net)
    before = net(x, context)
    net.layers[1].parametrizations.weight[0].factor = 3.0
    assert not torch.equal(net(x, context), before)


def doubled(kind: str) -> LipschitzNet:
    """A net of a class whose weights also depend on a parameter and an attribute of its own."""
    base = type(KINDS[kind]())

    class Doubled(base):
        factor = 2.0

        def weights_in_use(self, *args, **options):
            weights = super().weights_in_use(*args, **options)
            return [*weights[:-1], self.factor * self.scale * weights[-1]]

    net = made_with(0, kind)
    net.scale = nn.Parameter(torch.ones(()))
    net.__class__ = Doubled
    return net


@torch.no_grad()
def test_weights_of_a_sub_class_are_those_that_it_makes_now(kind):
    net, x, context = doubled(kind), torch.randn(4, *made_with(0, kind).shape), torch.randn(4, 2)
    last = net.layers[-1].bias.view(-1, *[1] * (x.dim() - 2))
    before = net(x, context) - last
    net.scale.mul_(2)
    torch.testing.assert_close(net(x, context) - last, 2 * before)
    net.factor = 1.0
    torch.testing.assert_close(net(x, context) - last, before)


@torch.no_grad()
def test_norms_of_a_sub_class_of_a_layer_are_those_that_it_has_now():
    class Masked(LipschitzLinear):
        mask = 1.0

        def tall(self, weight: Tensor) -> Tensor:
            return super().tall(self.mask * weight)

    layer = Masked(3, 4, coefficient=0.01).eval()
    layer.normalised_weight()
    layer.mask = torch.tensor([0.0, 1.0, 0.0])  # what is left of the weight is its second column
    norm = layer.weight[:, 1].norm()
    torch.testing.assert_close(layer.normalised_weight(), layer.weight / (norm / 0.01))


@torch.no_grad()
def test_the_size_of_images_counts():
    """The norm of a convolution depends on it, and a vector of 2x8 pixels fits 4x4 ones."""
    layer = LipschitzConv2d(2, 3, 3, (2, 8), coefficient=0.1).eval()
    other = copy.deepcopy(layer)
    layer.normalised_weight()
    layer.image_size = other.image_size = (4, 4)
    assert torch.equal(layer.normalised_weight(), other.normalised_weight())


def gradient_of_log_prob(block: ResFlowTransform, x: Tensor, context: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    z, logabsdet = block(x, context)
    return torch.autograd.grad(logabsdet.sum() - z.square().sum(), x)[0]


@pytest.mark.parametrize("mode", ["no gradients", "frozen"])
def test_nothing_is_computed_again_without_a_change(kind, mode, monkeypatch):
    net, x, context = made(kind)
    block = ResFlowTransform(net, "exact").eval()
    if mode == "frozen":  # as for Langevin steps and inverse problems, which differentiate by `x`
        net.requires_grad_(requires_grad=False)
        x.requires_grad_()
    folds, make = [], type(net).weights_in_use
    monkeypatch.setattr(
        type(net), "weights_in_use", lambda *a, **o: folds.append(1) or make(*a, **o)
    )
    with torch.set_grad_enabled(mode == "frozen"):
        before = net(x, context)
        assert torch.equal(net(x, context), before)
        assert not torch.equal(net(x, context + 1), before)  # contexts are none of what is kept
        for _ in range(3):
            block.encode(x, context)
            block.decode(x, context)
    if mode == "frozen":
        gradient_of_log_prob(block, x.detach(), context)
    assert len(folds) == 1


def test_gradients_through_kept_weights_are_those_through_fresh_ones(kind):
    net, x, context = made(kind)
    block = ResFlowTransform(net, "exact").eval()
    context.requires_grad_()
    expected = gradient_of_log_prob(block, x, context)
    net.requires_grad_(requires_grad=False)
    with torch.inference_mode():
        net(x, context)
    torch.testing.assert_close(gradient_of_log_prob(block, x, context), expected)
    block.encode(x, context).sum().backward()
    assert context.grad.any()


def test_weights_that_gradients_flow_to_are_not_kept(kind):
    net, x, context = made(kind)
    with torch.no_grad():
        net(x, context)
    for parameter in net.parameters():
        net.requires_grad_(requires_grad=False)
        parameter.requires_grad_()
        (gradient,) = torch.autograd.grad(net(x, context).square().sum(), parameter)
        assert gradient.any()


@torch.no_grad()
def test_evaluation_writes_nothing(kind):
    net, x, context = made(kind)
    before = {name: (t.clone(), t._version) for name, t in net.state_dict().items()}
    net(x, context)
    ResFlowTransform(net).eval()(x, context)
    net.certificate()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor._version == before[name][1], name


@torch.no_grad()
def test_training_keeps_nothing(kind):
    net, x, context = made(kind)
    net(x, context)
    net.train()
    for _ in range(2):
        net.layers[0].weight.mul_(0.1)
        before = net(x, context)
        net.layers[0].weight.mul_(0.1)
        assert not torch.equal(net(x, context), before)


@torch.no_grad()
def test_a_net_that_its_own_hook_holds_is_freed(kind):
    net, x, context = made(kind)
    hook = partial(lambda held, *_: None, net)
    net.activations[0].register_forward_hook(hook)
    net(x, context)
    left = weakref.ref(net)
    del net, hook
    gc.collect()
    assert left() is None


@torch.no_grad()
def test_contexts_are_rounded_once_under_autocast():
    net, context = LipschitzMLP(3, (6,), "sin", context_features=2).eval(), torch.randn(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = net.fold(context).biases[0]
        shift = net.context_layers[0](context)
    assert torch.equal(found, net.at(None).biases[0] + 2 * math.pi * shift.float())


@pytest.mark.filterwarnings("ignore:.*jit.script")
@torch.no_grad()
@pytest.mark.parametrize("kind", ["spectral", "convolutions", "dense"])
def test_derivatives_by_a_parameter_alone_are_there(kind):
    net, x, context = made(kind)
    before = net(x, context)
    for name, parameter in net.named_parameters():
        tangent = torch.func.jvp(
            lambda p, name=name: torch.func.functional_call(net, {name: p}, (x, context)),
            (parameter.detach(),),
            (torch.ones_like(parameter),),
        )[1]
        assert tangent.any(), name
    assert torch.equal(net(x, context), before)


@torch.no_grad()
def test_autocast_leaves_no_trace(kind):
    net, x, context = made(kind)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(x, context)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(net(x, context), computed_again(net, x, context))
    ResFlowTransform(net).eval()(x, context)


@torch.no_grad()
def test_copies_compute_their_own(kind):
    net, x, context = made(kind)
    size = len(pickle.dumps(net))
    before = net(x, context)
    assert len(pickle.dumps(net)) == size
    refresh_norms(net)
    assert len(pickle.dumps(net)) == size
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(copied(x, context), before)
        copied.layers[0].bias.add_(1)
        assert not torch.equal(copied(x, context), before)
    assert torch.equal(net(x, context), before)


def test_what_inference_mode_has_kept_serves_within_a_graph(kind):
    net, x, context = made(kind)
    with torch.inference_mode():
        net(x, context)
    with torch.no_grad():
        bound = net.fold(context)
    x.requires_grad_()
    bound.forward(x).sum().backward()
    assert x.grad.isfinite().all()


@torch.no_grad()
def test_another_type_counts(kind):
    net, x, context = made(kind)
    before = net(x, context)
    double = net.double()(x.double(), context.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.float()(x, context), before, rtol=1e-4, atol=1e-5)


def test_a_tensor_in_place_of_a_parameter_has_its_gradient_and_its_edits_are_seen(kind):
    """As a hypernetwork puts it there."""
    net, x, context = made(kind)
    net.requires_grad_(requires_grad=False)
    net(x, context)
    layer = net.lipschitz_layers()[0]
    weight, scale = layer.weight.detach().clone(), torch.tensor(0.5, requires_grad=True)
    del layer.weight
    layer.weight = weight * scale
    net(x, context).sum().backward()
    assert scale.grad is not None
    with torch.no_grad():
        before = net(x, context)
        layer.weight.mul_(0.2)
        assert not torch.equal(net(x, context), before)


def held_tensors() -> dict[int, int]:
    """The memory of all tensors of this process, by its address."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
    storages = [t.untyped_storage() for t in tensors if not t.is_meta]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


@pytest.mark.parametrize(
    "make",
    [
        lambda: SandwichMLP(4, (64, 64)),
        lambda: LipschitzMLP(4, (64, 64, 64), frequency=2.0),
        lambda: LipschitzConvNet(3, (8, 8), 32),
        lambda: LipschitzDenseNet(3, (8, 8), 32),
        lambda: LipschitzMLP(8, (32, 256)),
    ],
    ids=[*KINDS, "growing"],
)
def test_no_more_than_one_copy_of_the_weights_is_kept(make):
    """After evaluation with and without gradients, certificates, and saving."""
    net = make().eval()
    x, before = torch.randn(4, *net.shape), held_tensors()
    block = ResFlowTransform(net, "exact" if len(net.shape) == 1 else "unbiased").eval()
    for recorded in (True, False):
        net.requires_grad_(requires_grad=recorded)
        block(x)
        block.decode(x)
        with torch.no_grad():
            block(x)
    net.certificate()
    refresh_norms(net)
    with torch.inference_mode():
        net(x)
        block(x)
    more = sum(size for address, size in held_tensors().items() if address not in before)
    assert more <= 1.1 * sum(t.nbytes for t in net.state_dict().values())


EDITS = {
    "entry": lambda t: t.view(-1)[-1].add_(0.1),
    "all": lambda t: t.mul_(-1),
    "order": lambda t: t.copy_(t.flip(0)),
}


@torch.no_grad()
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_that_leaves_no_trace_but_the_entries_counts(kind, edit):
    net, x, context = made(kind)
    weight = net.layers[1].weight
    before, version = net(x, context), weight._version
    edit(weight.data)
    assert weight._version == version
    assert not torch.equal(net(x, context), before)
    assert torch.equal(net(x, context), computed_again(net, x, context))


@torch.no_grad()
def test_another_tensor_as_the_data_of_a_parameter_counts(kind):
    net, x, context = made(kind)
    before = net(x, context)
    net.layers[0].weight.data = 0.1 * net.layers[0].weight
    assert not torch.equal(net(x, context), before)
    assert torch.equal(net(x, context), computed_again(net, x, context))
