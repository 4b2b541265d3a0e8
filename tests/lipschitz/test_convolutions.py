"""Convolutions: the norm of the operator, its bound, its gradient; nets made of them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from normflows.nets.lipschitz import InducedNormConv2d
from support.dense_convolution import matrix
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional

from impflow_zoo import LipschitzConvNet, LipschitzDenseNet, ResFlowTransform
from impflow_zoo.lipschitz import convolutions
from impflow_zoo.lipschitz.activations import ACTIVATIONS, Scaled, make_activation
from impflow_zoo.lipschitz.convolutions import LipschitzConv2d
from impflow_zoo.lipschitz.norms import refresh_norms
from impflow_zoo.testing.case import jacobian

LAYERS = [
    pytest.param(3, 8, 3, (6, 5), id="wide"),
    pytest.param(8, 3, 3, (6, 5), id="narrow"),
    pytest.param(4, 6, 1, (5, 5), id="1x1"),
    pytest.param(2, 2, 5, (3, 4), id="kernel-larger-than-image"),
]


def enlarged(net: nn.Module, factor: float = 5.0) -> nn.Module:
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, LipschitzConv2d):
                layer.weight.mul_(factor)
    return net.double().eval()


@pytest.mark.parametrize(("inner", "outer", "kernel", "size"), LAYERS)
def test_norm_is_that_of_the_dense_operator(
    inner: int, outer: int, kernel: int, size: tuple[int, int]
) -> None:
    layer = enlarged(LipschitzConv2d(inner, outer, kernel, size, 0.9))
    effective = layer.normalised_weight().detach()
    norm = float(torch.linalg.matrix_norm(matrix(effective, size), 2))
    assert norm == pytest.approx(0.9, rel=1e-6)
    assert norm <= layer.norm_bound()


@pytest.mark.parametrize(("inner", "outer", "kernel", "size"), LAYERS)
def test_small_weights_are_left_alone(
    inner: int, outer: int, kernel: int, size: tuple[int, int]
) -> None:
    layer = enlarged(LipschitzConv2d(inner, outer, kernel, size, 0.9), 1e-3)
    assert torch.equal(layer.normalised_weight(), layer.weight)


def test_agrees_with_the_convolution_of_normflows() -> None:
    theirs = InducedNormConv2d(3, 8, 3, 1, 1, coeff=0.9, n_iterations=2000, domain=2, codomain=2)
    with torch.no_grad():
        theirs.weight.mul_(10)
    ours = LipschitzConv2d(3, 8, 3, (6, 6), 0.9).eval()
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
        ours.bias.copy_(theirs.bias)
        x = torch.randn(2, 3, 6, 6)
        theirs(x)  # finds the size of the images
        theirs.compute_weight(update=True, n_iterations=2000, atol=None, rtol=None)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_gradient_through_the_norm() -> None:
    layer = enlarged(LipschitzConv2d(2, 3, 3, (4, 4), 0.9))
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)

    def value(weight: Tensor) -> Tensor:
        norm = torch.linalg.matrix_norm(matrix(weight, (4, 4)), 2)
        return functional.conv2d(x, weight / (norm / 0.9).clamp(min=1), layer.bias, padding=1)

    weight = layer.weight.detach().clone().requires_grad_()
    probe = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    (expected,) = torch.autograd.grad((value(weight) * probe).sum(), weight)
    (found,) = torch.autograd.grad((layer(x) * probe).sum(), layer.weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [(3, 8), (8, 3)])
def test_a_saved_vector_is_kept_bit_by_bit(channels: tuple[int, int]) -> None:
    layer = LipschitzConv2d(*channels, 3, (6, 6), 0.9).eval()
    with torch.no_grad():
        layer.weight.mul_(4)
    refresh_norms(layer)
    loaded = LipschitzConv2d(*channels, 3, (6, 6), 0.9).eval()
    loaded.load_state_dict(layer.state_dict())
    assert torch.equal(loaded.normalised_weight(), layer.normalised_weight())
    assert torch.equal(loaded.vector, layer.vector)


def test_a_weight_changed_by_hand_is_seen() -> None:
    layer = enlarged(LipschitzConv2d(3, 4, 3, (5, 5), 0.9))
    layer(torch.zeros(1, 3, 5, 5).double())
    with torch.no_grad():
        layer.weight[0, 0] += 7
    norm = torch.linalg.matrix_norm(matrix(layer.normalised_weight().detach(), (5, 5)), 2)
    assert float(norm) == pytest.approx(0.9, rel=1e-6)


def test_zero_weight() -> None:
    layer = LipschitzConv2d(3, 4, 3, (5, 5), 0.9)
    with torch.no_grad():
        layer.weight.zero_()
    assert not layer(torch.randn(1, 3, 5, 5)).isnan().any()
    assert layer.eval().norm_bound() == 0


def test_convergence_finds_the_top_of_a_crowded_spectrum() -> None:
    """Training leaves vectors close to the second singular vector, where hardly a step is seen."""
    layer = LipschitzConv2d(6, 6, 3, (24, 24), 0.9).double()
    line = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.mul_(1e-6)
        for i in range(6):
            layer.weight[i, i] += (1 + 1e-4 * i) * torch.outer(line, line)
    layer.settle()
    norm, top = float(layer.attained().detach()), layer.vector.view(6, -1)
    layer.vector.copy_(functional.normalize((top.roll(-1, 0) + 1e-4 * top).flatten(), dim=0))
    layer.settle()
    assert float(layer.attained().detach()) == pytest.approx(norm, rel=1e-8)
    image = layer.operator(layer.weight.detach(), layer.vector)
    back = layer.adjoint(layer.weight.detach())
    residual = layer.operator(back, image) - layer.attained().detach() ** 2 * layer.vector
    assert float(residual.norm()) < 2e-7 * norm**2


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("scale", [1e-45, 1e-30, 1e-18])
def test_weights_next_to_nothing_leave_finite_vectors(scale: float, training: bool) -> None:
    layer = LipschitzConv2d(2, 3, 3, (4, 4), 0.9).train(training)
    with torch.no_grad():
        layer.weight.mul_(scale)
    assert torch.equal(layer.normalised_weight(), layer.weight)
    assert all(bool(b.isfinite().all()) for b in (layer.vector, layer.attained()))


def test_a_wide_layer_converges_in_float32_too(monkeypatch) -> None:
    """Sums of 500,000 squares that are off by 1e-5 would keep it at it until it gives up."""
    steps: list[int] = []
    search = convolutions.leading_vector
    monkeypatch.setattr(
        convolutions, "leading_vector", lambda *given: steps.append(given[-1]) or search(*given)
    )
    torch.manual_seed(0)
    LipschitzConv2d(3, 512, 3, (32, 32), 0.9).settle()
    assert sum(steps) < 400


@pytest.mark.parametrize("training", [False, True])
def test_the_norm_of_a_wide_layer_is_exact_to_the_rounding_of_float32(training: bool) -> None:
    """A norm too small by 1e-6 leaves a weight too large: its recorded certificate is refused."""
    torch.manual_seed(0)
    layer = LipschitzConv2d(3, 512, 3, (32, 32), 0.9).train(training)
    layer.normalised_weight()
    attained = float(layer.attained().detach())
    image = layer.double().operator(layer.weight, layer.vector)
    assert attained == pytest.approx(float(image.norm().detach()), rel=5e-7)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("training", [False, True])
def test_channels_that_are_apart_hide_no_norm(kernel: int, training: bool) -> None:
    layer = LipschitzConv2d(2, 2, kernel, (8, 8), 0.9).double().train(training)
    middle = kernel // 2
    for first, second in ((3.0, 1.0), (1.0, 3.0)):
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[0, 0, middle, middle] = first
            layer.weight[1, 1, middle, middle] = second
        layer(torch.zeros(1, 2, 8, 8, dtype=torch.float64))
        vector = layer.vector if training else layer.settled()
        assert float(layer.attained(vector).detach()) == pytest.approx(3.0, rel=1e-5)


def test_nets_are_differentiable_under_autocast() -> None:
    net = LipschitzConvNet(3, (8, 8), 16)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = net(x)
    value.float().square().sum().backward()
    assert x.grad is not None
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


def test_refreshed_vectors_are_not_looked_for_again(monkeypatch) -> None:
    layer = LipschitzConv2d(3, 4, 3, (5, 5), 0.9).eval()
    refresh_norms(layer)
    monkeypatch.setattr(LipschitzConv2d, "converged", lambda _: pytest.fail("once is enough"))
    layer(torch.zeros(1, 3, 5, 5))


def test_norm_keeps_up_with_training() -> None:
    """A norm that lags makes nets too steep and log-densities too good."""
    layer = LipschitzConv2d(8, 8, 3, (6, 6), 0.9)
    optimizer = torch.optim.Adam(layer.parameters(), lr=2e-3)
    target = torch.randn(4, 8, 6, 6)
    x, errors = torch.randn(4, 8, 6, 6), []
    for _ in range(60):
        weight = layer.normalised_weight()
        norm = torch.linalg.matrix_norm(matrix(layer.weight.detach().double(), (6, 6)), 2)
        errors.append(1 - float(layer.attained().detach()) / float(norm))
        loss = (functional.conv2d(x, weight, layer.bias, padding=1) - 3 * target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert max(errors) < 5e-3
    assert sum(errors) / len(errors) < 1e-3


NETS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: LipschitzConvNet(2, (4, 4), 6, lipschitz=0.8),
    "conv-preactivation": lambda: LipschitzConvNet(
        2, (4, 4), 6, activation="clipswish", preactivation=True, lipschitz=0.8
    ),
    "conv-context": lambda: LipschitzConvNet(
        2, (4, 4), 6, (3, 3), "sin", lipschitz=0.8, context_features=3
    ),
    "dense": lambda: LipschitzDenseNet(2, (4, 4), growth=3, depth=2, lipschitz=0.8),
    "dense-elu-context": lambda: LipschitzDenseNet(
        2, (4, 4), growth=3, depth=2, activation="elu", lipschitz=0.8, context_features=3
    ),
}


def _input(net: nn.Module) -> tuple[Tensor, ...]:
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    return (x,) if net.context_features is None else (x, torch.randn(3, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", NETS)
def test_nets_keep_their_constant(name: str) -> None:
    net = enlarged(NETS[name]())
    x, *context = _input(net)
    norms = torch.linalg.matrix_norm(jacobian(lambda x: net(x, *context), x), 2)
    assert float(norms.amax()) <= net.certificate() <= 0.8 * (1 + 1e-6)
    assert float(norms.amax()) > 0.02


@pytest.mark.parametrize("name", NETS)
def test_gradients_of_nets(name: str) -> None:
    net = enlarged(NETS[name](), 1.0)
    inputs = tuple(t.requires_grad_() for t in _input(net))
    assert gradcheck(net, inputs, fast_mode=True)


@pytest.mark.parametrize("name", NETS)
def test_wrong_input_is_refused(name: str) -> None:
    net = NETS[name]()
    with pytest.raises(ValueError, match=r"takes \[B, 2, 4, 4\]"):
        net(torch.zeros(1, 2, 4, 5))
    if net.context_features:
        with pytest.raises(ValueError, match="needs a context"):
            net(torch.zeros(1, 2, 4, 4))
        with pytest.raises(ValueError, match="context of shape"):
            net(torch.zeros(1, 2, 4, 4), torch.zeros(2, 3))


@pytest.mark.parametrize(
    "name", [n for n, kind in ACTIVATIONS.items() if isinstance(kind(), Scaled)]
)
def test_folded_activation_is_the_activation(name: str) -> None:
    net = LipschitzConvNet(2, (4, 4), 6, activation=name, preactivation=True).double().eval()
    plain = copy.deepcopy(net)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    h = x
    for activation, layer in zip([plain.first, *plain.activations], plain.layers, strict=True):
        h = layer(activation(h))
    torch.testing.assert_close(net(x), h, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(net.fold(None).forward(x), h, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("activation", ["lipswish", "sin", "elu"])
def test_a_frequency_is_that_of_the_channel(activation: str) -> None:
    sizes = {"kernels": (3, 3), "context_features": 3, "frequency": 2}
    net = LipschitzConvNet(2, (4, 4), 6, activation=activation, preactivation=True, **sizes)
    net = net.double().eval()
    with torch.no_grad():
        for p in net.log_frequencies:
            p.add_(torch.randn_like(p))
    assert [p.shape for p in net.log_frequencies] == [(2,), (6,)]
    x, context = torch.randn(3, 2, 4, 4).double(), torch.randn(3, 3).double()
    first, hidden = (p.exp()[:, None, None] for p in net.log_frequencies)
    h = net.layers[0](net.first(first * x) / first)
    h = h + net.context_layers[0](context)[:, :, None, None]
    expected = net.layers[1](net.activations[0](hidden * h) / hidden)
    torch.testing.assert_close(net(x, context), expected)
    assert not torch.allclose(net.layers[0](net.first(x)), net.layers[0](net.first(first * x)))


@pytest.mark.parametrize("frequency", [0.0, -1.0, float("nan"), "high", True])
def test_a_frequency_that_is_none_is_refused(frequency: object) -> None:
    with pytest.raises(ValueError, match=r"frequency=.*: .* 0.001 to 1000"):
        LipschitzConvNet(2, (4, 4), 6, frequency=frequency)


@pytest.mark.parametrize("name", ["lipswish", "clipswish"])
def test_swish_is_the_formula_of_the_papers(name: str) -> None:
    x = torch.linspace(-6, 6, 50)[:, None]
    activation = make_activation(name)
    b = functional.softplus(activation.beta)
    swish = lambda x: x * torch.sigmoid(b * x)  # noqa: E731
    expected = {
        "lipswish": swish(x) / 1.1,
        "clipswish": torch.cat((swish(x), swish(-x)), dim=1) / (1.1 * 1.004),
    }[name]
    torch.testing.assert_close(activation(x), expected)


@pytest.mark.parametrize("name", NETS)
def test_gradient_of_the_exact_logdet(name: str) -> None:
    net = enlarged(NETS[name](), 2.0)
    x, *context = _input(net)
    block = ResFlowTransform(net, logdet="exact")
    parameters = [p for p in net.parameters() if p.requires_grad]

    def logdet(x: Tensor, *_: Tensor) -> Tensor:
        return block(x, *context)[1]

    assert gradcheck(logdet, (x.requires_grad_(), *parameters), fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_a_batch_without_images_has_gradients_of_zero(name: str) -> None:
    """One process of several may have none, and has to add something up all the same."""
    net = NETS[name]().double()
    x, *context = (t[:0] for t in _input(net))
    block = ResFlowTransform(net, logdet="unbiased").train()
    z, logdet = block(x, *context)
    assert (z.shape, logdet.shape) == (x.shape, (0,))
    (z.sum() + logdet.sum()).backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert not bool(parameter.grad.any())
