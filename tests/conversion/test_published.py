"""The folders of the published checkpoints, and that conversion gives the configs in them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.published_models import IMAGE

from conversion.architecture import Settings, config_of
from conversion.published import CHECKPOINTS, Checkpoint, files
from conversion.reference import Layer, Net, Unit
from impflow_zoo import create_model, list_models
from impflow_zoo.models.config import ModelError
from impflow_zoo.models.folder import CARD, WEIGHTS, ConfigFile
from impflow_zoo.record import parameter_count
from impflow_zoo.registry import zoo_folder

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

every_checkpoint = pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda c: c.name)


def key(checkpoint: Checkpoint) -> str:
    return checkpoint.file.partition("_")[0]


@every_checkpoint
def test_the_folder_says_what_is_known(checkpoint):
    """If this fails: `python -m conversion.published`, and commit what it writes."""
    folder = zoo_folder() / checkpoint.name
    if (folder / WEIGHTS).is_file():
        pytest.skip("the weights are there: conversion wrote the folder")
    for name, content in files(checkpoint).items():
        assert (folder / name).read_bytes() == content, name
    card = (folder / CARD).read_text()
    for said in (checkpoint.file, checkpoint.bits_per_dim, "MIT", "Weights pending"):
        assert said in card


@every_checkpoint
def test_sizes(checkpoint):
    count = parameter_count(ConfigFile("ResFlow", checkpoint.config))
    assert count / 1e6 == pytest.approx(PARAMETERS[key(checkpoint)], abs=0.05)


@every_checkpoint
def test_the_published_command_gives_the_config(checkpoint):
    """Settings alone decide it, but for what the first layer and the last scale tell."""
    config = checkpoint.config

    channels = config.channels * (4 if config.squeeze_first else 1)
    weights = SimpleNamespace(
        images=True,
        blocks=[_block(first=True), *[_block(flat=True)] * config.fc_blocks],
        shape=lambda _: (512, channels, 3, 3),
    )
    args = {**DEFAULTS, **ARGS[key(checkpoint)]}
    assert config_of(weights, Settings(args, {})) == config


def _block(*, first: bool = False, flat: bool = False) -> Unit:
    place = 0 if first else 1
    net = Net("nnet", flat, {place: Layer(place, {"weight": "w"})})
    return Unit(0, place, {}, {"nnet": net})


def test_they_are_listed_without_weights():
    names = {c.name for c in CHECKPOINTS}
    assert names <= set(list_models("*-published", pretrained=None))
    for name in names - set(list_models()):
        with pytest.raises(ModelError, match="there are no weights for"):
            create_model(name)
