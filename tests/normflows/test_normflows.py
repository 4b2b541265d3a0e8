"""The blocks as layers of normflows models of every kind."""

from __future__ import annotations

import copy

import normflows as nf
import pytest
import torch
from support.blocks import KAPPA, UserConvNet, check_gradients, dense_logdet, tighten
from support.dealt import crossed
from torch import Tensor, nn

from impflow_zoo import (
    ImpFlowTransform,
    LipschitzMLP,
    ResFlowTransform,
)
from impflow_zoo.normflows import (
    ImpFlowLayer,
    ResFlowLayer,
    TransformLayer,
)
from impflow_zoo.transforms.blocks import MonotoneTransform


def mlp(features: int = 3, context: int | None = None) -> LipschitzMLP:
    net = LipschitzMLP(features, (8, 8), "sin", KAPPA, context_features=context)
    tighten(net)
    return net


LAYERS = {
    "impflow": lambda n=3, c=None: ImpFlowLayer(mlp(n, c), mlp(n, c)),
    "resflow": lambda n=3, c=None: ResFlowLayer(mlp(n, c)),
    "resflow-other-way": lambda n=3, c=None: ResFlowLayer(mlp(n, c), reverse=False),
    "monotone": lambda n=3, c=None: TransformLayer(MonotoneTransform(mlp(n, c))),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


class Target(nn.Module):
    """A density to fit by reverse KL."""

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        centre = 0 if context is None else context.sum(1, keepdim=True)
        return -((z - centre) ** 4).sum(1)


def settle(model: nn.Module, draw) -> nn.Module:
    """Start data-dependent layers, then double precision and evaluation mode."""
    model.double()
    draw()
    return model.eval()


def by_change_of_variables(model: nf.NormalizingFlow, x: Tensor, *context: Tensor) -> Tensor:
    """Log-density from the dense Jacobian of the whole map."""
    logdet = dense_logdet(lambda x: model.inverse(x, *context), x)
    return model.q0.log_prob(model.inverse(x, *context)) + logdet


@every_layer
def test_weights_move_as_they_are(name):
    layer, other = LAYERS[name]().eval(), LAYERS[name]().eval()
    other.transform.load_state_dict(layer.transform.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(layer.inverse(x)[0], other.inverse(x)[0])


def test_weights_move_between_the_libraries():
    transform, layer = ImpFlowTransform(mlp(), mlp()).eval(), LAYERS["impflow"]().eval()
    layer.transform.load_state_dict(transform.state_dict())
    x = torch.randn(4, 3)
    for ours, theirs in zip(transform(x), layer.inverse(x), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(transform.inverse(x), layer.forward(x), strict=True):
        assert torch.equal(ours, theirs)
    transform = ResFlowTransform(mlp()).eval()
    layer = ResFlowLayer(mlp()).eval()
    layer.transform.load_state_dict(transform.state_dict())
    assert torch.equal(transform(x)[0], layer.inverse(x)[0])


@every_layer
def test_among_layers_of_normflows(name):
    flows = [
        LAYERS[name](4),
        nf.flows.ActNorm(4),
        nf.flows.AffineCouplingBlock(nf.nets.MLP([2, 8, 4], init_zeros=False)),
        nf.flows.CoupledRationalQuadraticSpline(4, 1, 8),
        nf.flows.LULinearPermute(4),
        nf.flows.Permute(4),
        LAYERS[name](4),
    ]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(4), flows, Target())
    settle(model, lambda: model.sample(64))
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = by_change_of_variables(model, x)
    torch.testing.assert_close(model.log_prob(x), expected, rtol=0, atol=1e-9)
    z, log_q = model.sample(5)
    torch.testing.assert_close(model.log_prob(z), log_q, rtol=0, atol=1e-9)
    torch.testing.assert_close(model.forward(model.inverse(x)), x)
    loss = model.forward_kld(x)
    torch.testing.assert_close(loss.double(), -expected.mean(), rtol=1e-5, atol=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in model.flows[0].parameters())


@pytest.mark.parametrize(("layer", "training"), crossed(LAYERS, {"train": True, "eval": False}))
def test_gradients_of_both_divergences(layer, training):
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(3), [layer(), layer()], Target())
    model.double().train(training)
    x, parameters = torch.randn(4, 3, dtype=torch.float64), list(model.parameters())
    model.log_prob(x)  # in training mode the power vectors converge before the comparison
    check_gradients(lambda: -model.log_prob(x).mean(), parameters)

    def reverse(**options):
        torch.manual_seed(1)  # the same noise for every evaluation
        return model.reverse_kld(16, **options)

    reverse()
    check_gradients(reverse, parameters)
    expected = torch.autograd.grad(-model.log_prob(x).mean(), parameters)
    rounded = torch.autograd.grad(model.forward_kld(x), parameters)  # normflows adds in float32
    for a, b in zip(rounded, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@every_layer
def test_reverse_divergence_without_the_score(name):
    """The gradient along the path is zero, sample by sample, where model and target agree."""
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(3), [LAYERS[name]()]).double().eval()
    target = copy.deepcopy(model)
    model.p = target
    parameters = list(model.flows.parameters())
    with_score = torch.autograd.grad(model.reverse_kld(16), parameters)
    path = torch.autograd.grad(model.reverse_kld(16, score_fn=False), parameters)
    assert max(float(g.abs().max()) for g in with_score) > 1e-3
    assert max(float(g.abs().max()) for g in path) < 1e-6
    assert all(p.requires_grad for p in parameters)


@every_layer
def test_conditional(name):
    flows = [
        LAYERS[name](3, 2),
        nf.flows.MaskedAffineAutoregressive(3, 8, context_features=2),
        LAYERS[name](3),  # without a context of its own it stands among those with one
    ]
    model = nf.ConditionalNormalizingFlow(nf.distributions.DiagGaussian(3), flows, Target())
    model.double().eval()
    x, context = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    expected = by_change_of_variables(model, x, context)
    torch.testing.assert_close(model.log_prob(x, context), expected, rtol=0, atol=1e-9)
    assert not torch.allclose(model.log_prob(x, 2 * context), expected)
    z, log_q = model.sample(5, context)
    torch.testing.assert_close(model.log_prob(z, context), log_q, rtol=0, atol=1e-9)

    def reverse():
        torch.manual_seed(1)
        return model.reverse_kld(5, context)

    check_gradients(reverse, list(model.flows[0].parameters()))
    model.forward_kld(x, context).backward()
    assert all(p.grad is not None for p in model.flows[0].parameters())


@every_layer
def test_class_conditional(name):
    base = nf.distributions.ClassCondDiagGaussian((3,), 4)
    model = nf.ClassCondFlow(base, [LAYERS[name](), LAYERS[name]()]).double().eval()
    x, labels = torch.randn(5, 3).double(), torch.tensor([0, 1, 2, 3, 0])
    model.forward_kld(x, labels).backward()
    assert all(p.grad is not None for p in model.flows.parameters())
    z, log_q = model.sample(5, labels)
    torch.testing.assert_close(model.log_prob(z, labels), log_q, rtol=0, atol=1e-9)


class ImageNet(nn.Module):
    """A contraction on images of any number of channels: a user's net, one channel at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UserConvNet()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(0, 1)[:, None])[:, 0].view_as(x)


IMAGE_LAYERS = {
    "impflow": lambda: ImpFlowLayer(ImageNet(), ImageNet()),
    "resflow": lambda: ResFlowLayer(ImageNet()),
}


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_multiscale(name):
    make = IMAGE_LAYERS[name]
    model = nf.MultiscaleFlow(
        q0=[
            nf.distributions.DiagGaussian((8, 1, 1)),
            nf.distributions.DiagGaussian((2, 2, 2)),
        ],
        flows=[
            [make(), nf.flows.Invertible1x1Conv(8), nf.flows.Squeeze()],
            [nf.flows.ActNorm((4, 1, 1)), make(), nf.flows.Squeeze()],
        ],
        merges=[nf.flows.Merge()],
        class_cond=False,
    )
    settle(model, lambda: model.sample(8))
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    (a, b), logdet = model.inverse_and_log_det(x)

    def latents(x):
        return torch.cat([z.flatten(1) for z in model.inverse_and_log_det(x)[0]], dim=1)

    torch.testing.assert_close(logdet, dense_logdet(latents, x), rtol=0, atol=1e-9)
    expected = logdet + model.q0[0].log_prob(a) + model.q0[1].log_prob(b)
    torch.testing.assert_close(model.log_prob(x, None), expected)
    samples, log_q = model.sample(3)
    torch.testing.assert_close(model.log_prob(samples, None), log_q, rtol=0, atol=1e-9)
    model.forward_kld(x).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_training_needs_no_update():
    """Steps that would leave any bound, with nothing called after them."""
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(3), [LAYERS["resflow"]()])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    x = torch.randn(64, 3) * torch.tensor([0.1, 1.0, 5.0])
    for _ in range(5):
        optimizer.zero_grad()
        model.forward_kld(x).backward()
        optimizer.step()
    model.eval()
    torch.testing.assert_close(model.forward(model.inverse(x)), x, rtol=0, atol=1e-3)
    assert model.flows[0].transform.net.certificate() <= KAPPA * (1 + 1e-5)
