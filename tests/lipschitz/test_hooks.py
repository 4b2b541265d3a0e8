"""Hooks on nets and on their parts, and parts whose code somebody replaced: all of it runs."""

from __future__ import annotations

import pytest
import torch
from support.blocks import IMAGE_NETS, NETS
from torch import Tensor, nn
from torch.nn.utils import prune

from impflow_zoo import ImageConfig, ImpFlow, ResFlowTransform, TabularConfig
from impflow_zoo.lipschitz.norms import LipschitzLayer, LipschitzLinear
from impflow_zoo.testing.case import tighten

OURS = {name: spec for name, spec in (NETS | IMAGE_NETS).items() if "user" not in name}
SOME = ("sin", "sandwich", "conv-image", "dense-image")  # a net of each class
every_net = pytest.mark.parametrize("name", OURS)
one_of_each = pytest.mark.parametrize("name", SOME)


def made(name: str) -> tuple[nn.Module, Tensor, Tensor | None]:
    spec = OURS[name]
    net = spec.make().double().eval()
    tighten(net)
    x = torch.randn(5, *spec.shape, dtype=torch.float64)
    context = None if spec.context is None else torch.randn(5, spec.context, dtype=torch.float64)
    return net, x, context


def watch(module: nn.Module) -> list[nn.Module]:
    """Hook all parts of a module, as tools that print summaries do; the list of parts called."""
    called: list[nn.Module] = []
    for part in module.modules():
        part.register_forward_hook(lambda part, *_: called.append(part))
    return called


def everything(block: nn.Module, x: Tensor, context: Tensor | None) -> list[Tensor]:
    """Both directions and all gradients."""
    z, logabsdet = block(x, context)
    back, inverse = block.inverse(x, context)
    loss = z.square().sum() + logabsdet.sum() + back.sum() + inverse.square().sum()
    return [z, logabsdet, back, *torch.autograd.grad(loss, list(block.parameters()))]


@every_net
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_hooks_on_all_parts_run_and_change_nothing(name: str, training: bool) -> None:
    net, x, context = made(name)
    block = ResFlowTransform(net, "exact").train(training)
    block(x, context)  # in training mode the power vectors converge before the comparison
    expected = [net(x, context), *everything(block, x, context)]
    called = watch(block)
    found = [net(x, context), *everything(block, x, context)]
    # The vectors of convolutions follow to 1e-4 in training.
    tolerance = 1e-3 if training and "image" in name else 1e-9
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    assert {*net.layers, *net.activations, net, block} <= {*called}


@pytest.mark.parametrize(
    "config",
    [
        TabularConfig(2, blocks=2, hidden_features=(8,), whiten=True),
        TabularConfig(2, blocks=2, hidden_features=(8,), columns=("a", "b"), periodic={"b": 1.0}),
        ImageConfig(1, (4, 4), blocks=(1, 1), width=4),
    ],
    ids=["table", "angles", "images"],
)
def test_hooks_on_all_parts_of_a_model_run_and_change_nothing(config) -> None:
    model = ImpFlow(config).double().eval()
    x = torch.rand(3, *config.shape, dtype=torch.float64)
    expected = (model.log_prob(x), *model.transform(x))
    called = watch(model)
    for a, b in zip((model.log_prob(x), *model.transform(x)), expected, strict=True):
        torch.testing.assert_close(a, b)
    layers = {part for part in model.modules() if isinstance(part, LipschitzLayer)}
    assert {*model.blocks(), *layers} <= {*called}


@one_of_each
def test_a_hook_on_a_layer_counts(name: str) -> None:
    net, x, _ = made(name)
    before = net(x)
    net.layers[-1].register_forward_hook(lambda layer, _, y: 2 * y)
    torch.testing.assert_close(net(x), 2 * before)
    assert net.certificate() is None


@one_of_each
def test_pruned_layers_are_those_of_the_pruned_weights(name: str) -> None:
    net, x, _ = made(name)
    prune.l1_unstructured(net.layers[0], "weight", amount=0.3)
    found = [net(x), ResFlowTransform(net).eval().encode(x) - x]
    with torch.no_grad():
        net.layers[0].weight_orig.mul_(0.01)  # of the spectral nets below their bound
        small = net(x)
    prune.remove(net.layers[0], "weight")
    torch.testing.assert_close(net(x), small)
    with torch.no_grad():
        net.layers[0].weight.mul_(100)
    for value in found:
        torch.testing.assert_close(value, net(x))


def test_another_forward_of_a_layer_runs() -> None:
    class Halved(LipschitzLinear):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * super().forward(x)

    net, x, _ = made("sin")
    whole, half = LipschitzLinear(4, 3, 0.9).double(), Halved(4, 3, 0.9).double()
    half.load_state_dict(whole.state_dict())
    net.layers[-1] = whole.eval()
    expected = 0.5 * net(x)
    net.layers[-1] = half.eval()
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(ResFlowTransform(net).eval().encode(x), x + expected)
    assert net.certificate() is None


@pytest.mark.parametrize("name", ["softplus", "conv-image"])
def test_hooks_of_activations_run(name: str) -> None:
    net, x, _ = made(name)
    plain, seen = net(x), []
    net.activations[0].register_forward_hook(lambda *_: seen.append(1))
    assert torch.allclose(net(x), plain, atol=1e-6)
    assert seen == [1]
    net.activations[0].register_forward_hook(lambda *args: 0 * args[-1])
    assert not torch.allclose(net(x), plain, atol=1e-3)


def test_other_code_in_an_activation_runs() -> None:
    net, x, _ = made("sin")
    plain = net(x)
    net.activations[0].forward = torch.zeros_like
    assert not torch.allclose(net(x), plain, atol=1e-3)


def test_hooks_on_layers_whose_weights_a_sub_class_changes_are_refused() -> None:
    """Layers that are called have their own weights, not those of the net."""
    net, x, _ = made("sin")

    class Doubled(type(net)):
        def weights_in_use(self, *args, **options) -> list[Tensor]:
            return [2 * weight for weight in super().weights_in_use(*args, **options)]

    net.__class__ = Doubled
    net.layers[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="Doubled has weights_in_use .* hooks"):
        net(x)
