"""The map of mixtures of Gaussians, against their closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch.func import functional_call

from impflow_zoo.transforms.mixture import MixtureAutoregressive, normal_quantile


@given(st.floats(-1e6, math.log(0.5)))
def test_normal_quantile(log_p):
    target = torch.tensor(log_p, dtype=torch.float64, requires_grad=True)
    z = normal_quantile(target)
    found = torch.special.log_ndtr(z)
    torch.testing.assert_close(found, target, rtol=1e-12, atol=1e-13)
    (slope,) = torch.autograd.grad(z, target)
    expected = (found + 0.5 * z**2 + 0.5 * math.log(2 * math.pi)).exp()
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=0)


def layer(features: int, context: int | None = 2, components: int = 4) -> MixtureAutoregressive:
    torch.manual_seed(0)
    made = MixtureAutoregressive(features, components, 16, context).double().eval()
    with torch.no_grad():
        for p in made.parameters():
            p += 0.3 * torch.randn_like(p)
    return made


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_density_is_that_of_the_mixture(scale):
    made, c = layer(1), rows(50, 2)
    x = scale * rows(50, 1)
    weights, means, widths = made.mixture(made.autoregressive_net(x, c))
    law = MixtureSameFamily(Categorical(logits=weights), Normal(means, widths))
    z, logabsdet = made(x, c)
    found = Normal(0, 1).log_prob(z)[:, 0] + logabsdet
    torch.testing.assert_close(found, law.log_prob(x)[:, 0])
    middle = z.abs() < 3
    torch.testing.assert_close(Normal(0, 1).cdf(z)[middle], law.cdf(x)[middle])


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("context", [None, 2])
def test_it_is_a_map_and_its_inverse_with_the_dense_determinant(features, context):
    made, c = layer(features, context), None if context is None else rows(20, context)
    x = 2 * rows(20, features)
    z, logabsdet = made(x, c)
    back, minus = made.inverse(z, c)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(minus, -logabsdet)
    for i in range(20):
        own = None if c is None else c[i : i + 1]
        dense = torch.autograd.functional.jacobian(
            lambda r, own=own: made(r[None], own)[0][0], x[i]
        )
        torch.testing.assert_close(torch.linalg.slogdet(dense)[1], logabsdet[i])


def test_the_first_column_sees_the_context():
    made = layer(3)
    x, c = rows(4, 3), rows(4, 2)
    assert bool(((made(x, c)[0] - made(x, c + 1)[0]).abs() > 1e-6).all())


class OneWay(nn.Module):
    """A direction of a layer, as `functional_call` takes it."""

    def __init__(self, made: MixtureAutoregressive, direction: str) -> None:
        super().__init__()
        self.made, self.direction = made, direction

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return getattr(self.made, self.direction)(x, c)


@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_first_and_second_derivatives(direction, features):
    """Of values and log-determinants, by rows, contexts and parameters, against differences."""
    one_way = OneWay(layer(features, components=2), direction)
    name = "made.autoregressive_net.made.final_layer.bias"
    bias = one_way.get_parameter(name).detach().clone()

    def outputs(x, c, bias):
        return functional_call(one_way, {name: bias}, (x, c))

    inputs = [one.requires_grad_() for one in (rows(2, features), rows(2, 2), bias)]
    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradgradcheck(outputs, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_the_median(dtype):
    """Both tails are 1/2 there, up to rounding: neither gradient may be lost, or halved."""
    for seed in range(20):
        torch.manual_seed(seed)
        map_ = layer(2).to(dtype)
        context = torch.randn(3, 2, dtype=dtype)
        zeros = torch.zeros(3, 2, dtype=dtype, requires_grad=True)
        x, logabsdet = map_.inverse(zeros, context)
        columns = [torch.autograd.grad(x[:, i].sum(), zeros, retain_graph=True)[0] for i in (0, 1)]
        slopes = torch.stack([columns[i][:, i] for i in (0, 1)], dim=1).log().sum(dim=1)
        assert torch.allclose(slopes, logabsdet, atol=1e-4)
        x = x.detach().requires_grad_()
        z, logabsdet = map_(x, context)
        columns = [torch.autograd.grad(z[:, i].sum(), x, retain_graph=True)[0] for i in (0, 1)]
        slopes = torch.stack([columns[i][:, i] for i in (0, 1)], dim=1).log().sum(dim=1)
        assert torch.allclose(slopes, logabsdet, atol=1e-4)
        weights = list(map_.parameters())
        gradients = torch.autograd.grad(
            map_.inverse(zeros, context)[0][:, 0].sum(), weights, allow_unused=True
        )
        assert any(bool(g.abs().max() > 1e-8) for g in gradients if g is not None)


def test_far_rows_have_a_density():
    x = torch.tensor([[-1e4], [1e4]])
    z, logabsdet = layer(1, None).float()(x)
    assert bool(z.isfinite().all() and logabsdet.isfinite().all())


@pytest.mark.parametrize("scale", [1e7, 1e10, 1e13, 1e20, 1e30])
@torch.no_grad()
def test_nothing_far_out_is_nan(scale):
    made, c = layer(2), rows(20, 2)
    z = scale * rows(20, 2)
    x, logabsdet = made.inverse(z, c)
    assert bool(x.isfinite().all() and logabsdet.isfinite().all())
    back, forth = made(x, c)
    torch.testing.assert_close(back, z, rtol=1e-6, atol=0)
    found = (Normal(0, 1).log_prob(back).sum(dim=1) + forth) / (x**2).sum(dim=1)
    assert bool((found < 0).all())
