"""The blocks within nflows' pipelines: compositions, contexts, densities that learn."""

from __future__ import annotations

import math

import pytest
import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import (
    ActNorm,
    AffineCouplingTransform,
    CompositeTransform,
    InverseTransform,
    LULinear,
    MaskedAffineAutoregressiveTransform,
    MultiscaleCompositeTransform,
    OneByOneConvolution,
    PiecewiseRationalQuadraticCouplingTransform,
    RandomPermutation,
    ReversePermutation,
    SqueezeTransform,
)
from torch import nn

from impflow_zoo import ImpFlowTransform, LipschitzMLP, ResFlowTransform
from impflow_zoo.testing.case import check_gradients, dense_logdet, tighten

D, C = 4, 3
pytestmark = [  # nflows' own
    pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:Inputs to the softmax are not scaled down:UserWarning"),
]


def mlp(context=None, features=D):
    return LipschitzMLP(features, (16,), "lipswish", 0.8, context_features=context)


def impflow(context=None):
    return ImpFlowTransform(mlp(context), mlp(context))


def resflow(context=None):
    return ResFlowTransform(mlp(context))


class Conditioner(nn.Module):
    """What nflows' couplings ask for: parameters from one half and a context."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.inner, self.outer = nn.Linear(inputs, 8), nn.Linear(8, outputs)
        self.embed = nn.Linear(C, 8)

    def forward(self, x, context=None):
        h = self.inner(x) if context is None else self.inner(x) + self.embed(context)
        return self.outer(torch.tanh(h))


def splines():
    return PiecewiseRationalQuadraticCouplingTransform(
        torch.arange(D) % 2, Conditioner, num_bins=4, tails="linear", tail_bound=4.0
    )


NEIGHBOURS = {
    "actnorm": lambda: ActNorm(D),
    "random-permutation": lambda: RandomPermutation(D),
    "reverse-permutation": lambda: ReversePermutation(D),
    "lu": lambda: LULinear(D, identity_init=False),
    "affine-coupling": lambda: AffineCouplingTransform(torch.arange(D) % 2, Conditioner),
    "spline-coupling": splines,
    "autoregressive": lambda: MaskedAffineAutoregressiveTransform(D, 8, context_features=C),
    "impflow": lambda: impflow(C),
    "inverse-of-impflow": lambda: InverseTransform(impflow(C)),
    "inverse-of-resflow": lambda: InverseTransform(resflow()),
}


def pipeline(neighbour):
    transform = CompositeTransform([impflow(C), neighbour(), resflow(C)]).double()
    tighten(transform, 3)
    x, context = torch.randn(6, D, dtype=torch.float64), torch.randn(6, C, dtype=torch.float64)
    transform.train()(x, context)  # initialises an ActNorm
    return transform.eval(), x, context


every_neighbour = pytest.mark.parametrize("neighbour", NEIGHBOURS.values(), ids=NEIGHBOURS)


@every_neighbour
def test_compositions(neighbour):
    transform, x, context = pipeline(neighbour)
    z, logabsdet = transform(x, context)
    back, back_logabsdet = transform.inverse(z, context)
    assert z.shape == x.shape
    assert logabsdet.shape == (6,)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(logabsdet, -back_logabsdet, rtol=0, atol=1e-8)
    expected = dense_logdet(lambda x: transform(x, context)[0], x)
    torch.testing.assert_close(logabsdet, expected, rtol=0, atol=1e-9)


@every_neighbour
def test_gradients_of_log_prob_through_compositions(neighbour):
    transform, x, context = pipeline(neighbour)
    flow = Flow(transform, StandardNormal([D])).double().eval()
    weight = torch.randn(6, dtype=torch.float64)
    x.requires_grad_(), context.requires_grad_()
    used = [p for p in transform.parameters() if p.requires_grad]
    check_gradients(lambda: (weight * flow.log_prob(x, context)).sum(), [x, context, *used])


@pytest.mark.parametrize("make", [impflow, resflow])
def test_an_inverse_transform_is_the_inverse(make):
    block = make().double().eval()
    x = torch.randn(5, D, dtype=torch.float64)
    for one, other in zip(InverseTransform(block)(x), block.inverse(x), strict=True):
        assert torch.equal(one, other)


class ConvNet(nn.Module):
    """A contraction on images: all taps of the convolutions add up to less than one."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.mul_(0.9 / self.conv.weight.abs().sum())

    def forward(self, x):
        return torch.sin(self.conv(x))


def test_multiscale_on_images():
    def level(channels):
        return CompositeTransform(
            [
                SqueezeTransform(),
                ActNorm(4 * channels),
                OneByOneConvolution(4 * channels, identity_init=False),
                ImpFlowTransform(ConvNet(4 * channels), ConvNet(4 * channels)),
                ResFlowTransform(ConvNet(4 * channels)),
            ]
        )

    multiscale = MultiscaleCompositeTransform(num_transforms=2)
    shape = multiscale.add_transform(level(1), (4, 4, 4))
    multiscale.add_transform(level(2), (8, 2, 2))
    assert tuple(shape) == (2, 4, 4)
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    multiscale.double().train()(x)
    z, logabsdet = multiscale.eval()(x)
    assert z.shape == (3, 64)
    back, back_logabsdet = multiscale.inverse(z)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(logabsdet, -back_logabsdet, rtol=0, atol=1e-8)
    expected = dense_logdet(lambda x: multiscale(x)[0], x)
    torch.testing.assert_close(logabsdet, expected, rtol=0, atol=1e-9)


def test_multiscale_on_rows():
    multiscale = MultiscaleCompositeTransform(num_transforms=2)
    multiscale.add_transform(impflow(), (D,))
    multiscale.add_transform(ResFlowTransform(mlp(features=D // 2)), (D // 2,))
    multiscale.double().eval()
    x = torch.randn(5, D, dtype=torch.float64)
    z, logabsdet = multiscale(x)
    torch.testing.assert_close(multiscale.inverse(z)[0], x, rtol=0, atol=1e-9)
    torch.testing.assert_close(logabsdet, dense_logdet(lambda x: multiscale(x)[0], x))


@pytest.mark.parametrize("make", [impflow, resflow])
def test_a_flow_is_a_density(make):
    """Its integral over a wide grid is one, and its samples are normal after the way back."""
    block = ResFlowTransform(mlp(features=2)) if make is resflow else None
    block = block or ImpFlowTransform(mlp(features=2), mlp(features=2))
    tighten(block, 3)
    flow = Flow(block, StandardNormal([2])).eval()
    axis = torch.linspace(-12, 12, 241)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = flow.log_prob(grid).double().exp().sum() * (axis[1] - axis[0]) ** 2
        noise = block(flow.sample(4000))[0]
    assert mass.item() == pytest.approx(1, abs=1e-3)
    assert (noise.mean(0).abs() < 4 / math.sqrt(4000)).all()
    assert (torch.cov(noise.mT) - torch.eye(2)).abs().max() < 0.1


def test_sampling_with_contexts_and_an_embedding():
    flow = Flow(impflow(C), StandardNormal([D]), embedding_net=nn.Linear(7, C)).eval()
    context = torch.randn(5, 7)
    samples, log_prob = flow.sample_and_log_prob(6, context)
    assert samples.shape == (5, 6, D)
    assert log_prob.shape == (5, 6)
    again = flow.log_prob(samples.flatten(0, 1), context.repeat_interleave(6, 0))
    torch.testing.assert_close(log_prob.flatten(), again, rtol=1e-4, atol=1e-4)
    assert flow.sample(6, context).shape == (5, 6, D)


@pytest.mark.parametrize("make", [impflow, resflow])
def test_a_conditional_density_learns(make):
    """The mean of the data is the context; an unconditional normal scores -1.42 - 0.5 nats."""
    flow = Flow(
        CompositeTransform([ActNorm(1), _one_feature(make), ActNorm(1)]),
        StandardNormal([1]),
        embedding_net=nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, C)),
    )
    optimiser = torch.optim.Adam(flow.parameters(), lr=2e-2)

    def batch(rows):
        context = 4 * torch.rand(rows, 1) - 2
        return context + 0.3 * torch.randn(rows, 1), context

    x, context = batch(1000)
    flow.train()
    for _ in range(60):
        optimiser.zero_grad()
        (-flow.log_prob(*batch(256)).mean()).backward()
        optimiser.step()
    flow.eval()
    with torch.no_grad():
        score = flow.log_prob(x, context).mean().item()
        wrong = flow.log_prob(x, -context).mean().item()
        samples = flow.sample(500, torch.tensor([[-1.5], [1.5]]))
    unconditional = -0.5 * math.log(2 * math.pi * math.e * float(x.var()))
    assert score > unconditional + 0.5
    assert wrong < score - 1
    centres = samples.mean(1)[:, 0]
    assert centres[0] < -1
    assert centres[1] > 1


def _one_feature(make):
    nets = [mlp(C, features=1) for _ in range(2)]
    return ImpFlowTransform(*nets) if make is impflow else ResFlowTransform(nets[0])


@pytest.mark.parametrize("make", [impflow, resflow])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_reverse_kl_through_samples(make, training):
    """`E[log q(x) - log p(x)]` over samples `x` of the flow, against finite differences."""
    block = make(C).double()
    tighten(block, 3)
    flow = Flow(block, StandardNormal([D])).double().train(training)
    noise = torch.randn(4, D, dtype=torch.float64)
    context = torch.randn(4, C, dtype=torch.float64, requires_grad=True)

    def divergence():
        x, logabsdet = block.inverse(noise, context)
        log_q = StandardNormal([D]).double().log_prob(noise) - logabsdet
        return (log_q + 0.5 * (x - 1).square().sum(1) + x.sin().sum(1)).sum()

    divergence()
    check_gradients(divergence, [context, *block.parameters()])
    samples, log_prob = flow.float().sample_and_log_prob(3, context.float())
    assert samples.requires_grad
    assert log_prob.requires_grad


@pytest.mark.parametrize("make", [impflow, resflow])
def test_reverse_kl_learns(make):
    """Samples are drawn to a target that is known by its density alone."""
    transform = CompositeTransform([make(), ActNorm(D)]).train()
    for module in transform.modules():
        if isinstance(module, ActNorm):
            module.initialized.fill_(value=True)
    flow = Flow(transform, StandardNormal([D]))
    optimiser = torch.optim.Adam(flow.parameters(), lr=5e-2)

    def divergence(rows):
        x, log_q = flow.sample_and_log_prob(rows)
        return (log_q + (2 * (x - 1).square() + 0.5 * math.log(math.pi / 2)).sum(1)).mean()

    first = divergence(500).item()
    for _ in range(60):
        optimiser.zero_grad()
        divergence(64).backward()
        optimiser.step()
    assert first > 5
    assert divergence(500).item() < 0.2


def test_log_dets_are_of_one_dimension():
    """`[B, 1]` would silently become `[B, B]` in a flow."""
    flow = Flow(impflow(), StandardNormal([D]))
    assert flow.log_prob(torch.randn(7, D)).shape == (7,)
    assert flow.log_prob(torch.randn(1, D)).shape == (1,)
