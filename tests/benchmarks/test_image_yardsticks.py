"""Yardsticks of image models: their densities, their inverses, and a few steps of training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from image_yardsticks import (
    CouplingFlow,
    PatchGaussian,
    YardstickConfig,
    gaussian,
    like,
    main,
    parameters,
)
from support.checkout import CHECKOUT
from support.command_line import call
from support.image_sets import photograph, save

from impflow_zoo import create_model, evaluate
from impflow_zoo.data import DataError
from impflow_zoo.models.mistakes import in_one_line
from impflow_zoo.training.recipe import read_recipe

SMALL = YardstickConfig(1, (4, 4), bits=5, blocks=(1, 2), width=5, squeeze_first=True, whiten=True)
RECIPE = {
    "model": "ResFlow",
    "config": {
        "kind": "image",
        "channels": 3,
        "image_size": [8, 8],
        "bits": 5,
        "blocks": [1, 1],
        "width": 32,
        "squeeze_first": True,
        "whiten": True,
    },
    "training": {"batch_size": 4, "validation_limit": 4, "flip": True},
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture
def data(tmp_path: Path) -> str:
    draws = numpy.random.default_rng(0)
    splits = ("train", "validation", "test")
    return save(
        tmp_path / "set", **{s: [photograph(draws, 8, 8) for _ in range(12)] for s in splits}
    )


def script() -> None:
    with in_one_line():
        main()


def untrained(kind: type, config: YardstickConfig) -> CouplingFlow | PatchGaussian:
    """A model in float64 with layers that a batch has started and weights that are not zero."""
    model = kind(config).double()
    model.train().encode(torch.rand(50, *config.shape, dtype=torch.float64))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


@pytest.mark.parametrize("kind", [CouplingFlow, PatchGaussian])
@torch.no_grad()
def test_the_density_is_that_of_a_change_of_variables(kind: type) -> None:
    config = SMALL if kind is CouplingFlow else YardstickConfig(1, (8, 8), bits=5)
    model = untrained(kind, config)
    x = torch.rand(2, *config.shape, dtype=torch.float64)
    n = math.prod(config.shape)
    for row, value in zip(x, model.log_prob(x), strict=True):
        z = model.encode(row[None])
        jacobian = torch.autograd.functional.jacobian(model.encode, row[None]).reshape(n, n)
        noise = -0.5 * z.square().sum() - 0.5 * n * math.log(2 * math.pi)
        assert float(value) == pytest.approx(float(noise + jacobian.slogdet()[1]), abs=1e-8)
    bits = model.preprocessing.metric(model.log_prob(x))
    assert torch.allclose(bits, 5 - model.log_prob(x) / (n * math.log(2)))
    assert torch.allclose(model.decode(model.encode(x)), x, atol=1e-8)


def test_a_coupling_flow_is_as_large_as_the_model_beside_it(recipe: Path) -> None:
    config = like(read_recipe(CHECKOUT / "hub_configs" / "resflow-cifar10" / "recipe.yaml"), 4)
    size = parameters(create_model("resflow-cifar10"))
    assert parameters(CouplingFlow(config)) == pytest.approx(size, rel=0.02)


def test_a_coupling_flow_refuses_a_single_channel() -> None:
    recipe = read_recipe(CHECKOUT / "hub_configs" / "resflow-mnist" / "recipe.yaml")
    with pytest.raises(DataError, match="grey images need `squeeze_first: true`"):
        like(recipe, 4)


def test_the_gaussian_has_a_full_covariance_and_an_exact_density(recipe: Path, data: str) -> None:
    model = gaussian(read_recipe(recipe), data)
    assert parameters(model) == 192 * 192 + 192
    score = evaluate(model, data, "train")
    assert (score.n, score.estimator_stderr, score.logdet) == (12, 0.0, "exact")


def test_a_coupling_flow_is_trained_resumed_and_scored(
    recipe: Path, data: str, tmp_path: Path
) -> None:
    given = ("--like", recipe, "--data", data, "--out", tmp_path / "run", "--blocks", "2")
    for more in ((), ("--resume",)):
        done = call(script, "yardsticks", "coupling", *given, "--minutes", "1e-6", *more)
        assert done.code == 0, done.err
        assert "bits per dim" in done.out
    done = call(script, "yardsticks", "gaussian", *given[:4], "--out", tmp_path / "gaussian")
    assert "estimator error      none" in done.out, done.err
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    refused = call(script, "yardsticks", "coupling", *given)
    assert refused.code == 2
