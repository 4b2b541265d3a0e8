"""Samples with gradients: their density, and derivatives by finite differences."""

from __future__ import annotations

import pytest
import torch
from support.small_models import make

from impflow_zoo import ImpFlow, MonotoneFlow, ResFlow, create_model

FLOWS = (ImpFlow, ResFlow, MonotoneFlow)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("training", [False, True])
def test_the_density_of_a_sample_comes_with_it(kind, training):
    model = make(kind).double().train(training)
    x, log_prob = model.rsample_and_log_prob(5, generator=seeded())
    assert x.requires_grad
    torch.testing.assert_close(log_prob, model.log_prob(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.rsample(5, generator=seeded()), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        model.sample(5, generator=seeded()), x.detach(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", FLOWS)
def test_gradients_of_the_reverse_divergence(kind):
    """Of `E[log q(x) - log p(x)]` with samples of the model, by central differences."""
    model = make(kind).double().eval()

    def divergence() -> torch.Tensor:
        x, log_prob = model.rsample_and_log_prob(7, generator=seeded(1))
        return (log_prob + x.square().sum(dim=1) / 2).mean()

    parameter = max(model.parameters(), key=lambda p: p.numel())
    direction = torch.randn(parameter.shape, generator=seeded(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(divergence(), parameter)
    step = 1e-4
    with torch.no_grad():
        parameter += step * direction
        above = divergence()
        parameter -= 2 * step * direction
        below = divergence()
    expected = (above - below) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-4, atol=1e-7)


def test_contexts_have_samples_of_their_own():
    model = create_model("impflow-power-plant-given-weather", dtype=torch.float64)
    context = torch.tensor([[15.0, 60.0, 1010.0, 70.0], [25.0, 40.0, 1005.0, 60.0]])
    context = context.double().requires_grad_()
    x, log_prob = model.rsample_and_log_prob(3, context, seeded())
    assert (x.shape, log_prob.shape) == ((2, 3, 1), (2, 3))
    rows = context.repeat_interleave(3, dim=0)
    torch.testing.assert_close(log_prob.flatten(), model.log_prob(x.flatten(0, 1), rows))
    (gradient,) = torch.autograd.grad(x.sum(), context)
    assert (gradient != 0).any()
