"""The folders of the published checkpoints, and that conversion gives the configs in them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support.published_models import IMAGE

from conversion.convert import size_of
from conversion.settings import config_of, read_settings
from impflow_zoo import ResFlow, create_model, list_models
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import RECIPE
from impflow_zoo.models.registry import zoo_folder
from impflow_zoo.training.recipe import read_recipe

PARAMETERS = {  # in millions
    "mnist": 16.6,
    "cifar10": 25.2,
    "imagenet32": 47.1,
    "imagenet64": 53.3,
    "celebahq256": 136.8,
}
DEFAULTS = {
    **IMAGE,
    **{"imagesize": 32, "idim": 512, "nblocks": "16-16-16", "coeff": 0.98, "fc_end": True},
    **{"fc_idim": 128, "nbits": 8, "n_exact_terms": 2, "n_samples": 1, "n_power_series": None},
}
DEEP = {"factor_out": True, "squeeze_first": True}
ARGS = {  # what the commands in the public README give
    "mnist": {"data": "mnist", "imagesize": 28},
    "cifar10": {"data": "cifar10"},
    "imagenet32": {"data": "imagenet32", "nblocks": "32-32-32"},
    "imagenet64": {"data": "imagenet64", "imagesize": 64, "nblocks": "32-32-32", **DEEP},
    "celebahq256": {
        **{"data": "celebahq", "imagesize": 256, "nbits": 5, "act": "elu", "fc_end": False},
        **{"nblocks": "16-16-16-16-16-16", **DEEP},
    },
}

FOLDERS = {name: zoo_folder() / f"resflow-{name}-published" for name in PARAMETERS}


@pytest.mark.parametrize("name", FOLDERS)
def test_sizes(name):
    recipe = read_recipe(FOLDERS[name] / RECIPE)
    with torch.device("meta"):
        model = ResFlow(recipe.config)
    assert size_of(model) / 1e6 == pytest.approx(PARAMETERS[name], abs=0.05)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_published_command_gives_the_config(name):
    """Settings alone decide it, but for what the first layer and the last scale tell."""
    recipe = read_recipe(FOLDERS[name] / RECIPE)
    config = recipe.config
    channels = config.channels * (4 if config.squeeze_first else 1)
    weights = SimpleNamespace(
        images=True,
        first=SimpleNamespace(module=0),
        first_shape=(512, channels, 3, 3),
        places=[SimpleNamespace(scale=9, index=i, flat=True) for i in range(config.fc_blocks)],
    )
    assert config_of(weights, read_settings({**DEFAULTS, **ARGS[name]}, {})) == config
    assert recipe.model == "ResFlow"


def test_they_are_listed_without_weights():
    names = {folder.name for folder in FOLDERS.values()}
    assert names == set(list_models("*-published", pretrained=None))
    for name in names - set(list_models()):
        with pytest.raises(ModelError, match="there are no weights for"):
            create_model(name)
