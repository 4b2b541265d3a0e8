"""Yardsticks are models of the zoo; a trained linear Gaussian is the one of least squares."""

from __future__ import annotations

import math

import pytest
import torch
from support.small_models import write_recipe

from impflow_zoo import (
    LinearGaussian,
    LinearGaussianConfig,
    MixtureConfig,
    MixtureDensityNetwork,
    create_model,
    evaluate,
    training,
)

CONFIGS = {
    "LinearGaussian": {"kind": "linear-gaussian"},
    "MixtureDensityNetwork": {"kind": "mixture"},
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("given", [False, True], ids=["joint", "conditional"])
def test_a_recipe_trains_scores_and_saves_it(kind, given, tmp_path):
    names = {"features": 2, "columns": ["x", "y"]}
    if given:
        names = {"features": 1, "columns": ["y"], "context_columns": ["x"]}
    recipe = write_recipe(tmp_path, kind, config={**CONFIGS[kind], **names})
    training.train(recipe, out=tmp_path / "run", progress=False)
    loaded = create_model(tmp_path / "run", verify=True)
    assert type(loaded).__name__ == kind
    result = evaluate(loaded, "toy:moons", "test", limit=50)
    assert (result.n, result.logdet) == (50, "exact")
    assert result.round_trip < 1e-4


def test_a_linear_gaussian_learns_least_squares():
    torch.manual_seed(0)
    c = 5 + 2 * torch.randn(400, 2, dtype=torch.float64)
    x = c @ torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64) + torch.randn(400, 2)
    config = LinearGaussianConfig(2, columns=("a", "b"), context_columns=("c", "d"))
    model = LinearGaussian(config).double()
    model.fit_preprocessing(x, c)
    model.train().encode(x, c)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = -model.log_prob(x, c).mean()
        value.backward()
        return value

    optimizer.step(loss)
    design = torch.cat((c, torch.ones(400, 1, dtype=torch.float64)), dim=1)
    residuals = x - design @ torch.linalg.lstsq(design, x).solution
    covariance = residuals.T @ residuals / 400
    best = -0.5 * (torch.logdet(2 * math.pi * math.e * covariance))
    assert -float(loss().detach()) == pytest.approx(float(best), abs=1e-5)


def test_a_mixture_integrates_to_one_at_every_context():
    torch.manual_seed(0)
    config = MixtureConfig(1, columns=("a",), context_columns=("c",), hidden_features=8)
    model = MixtureDensityNetwork(config).double().eval()
    x = torch.linspace(-40, 40, 40_001, dtype=torch.float64)[:, None]
    for c in (-1.0, 0.0, 4.0):
        density = model.log_prob(x, torch.full_like(x, c)).exp().detach()
        assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=1e-6)
