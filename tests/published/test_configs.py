"""Configs of converted models: what earlier versions wrote loads, and no other room knows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import impflow_zoo
from impflow_zoo import ImageConfig, ImpFlow, ResFlow, TabularConfig, create_model
from impflow_zoo.models.config import parse, to_json, updated
from impflow_zoo.models.fields import ConfigError
from impflow_zoo.models.flow import FlowModel

# What configs of the version before had beside today's fields.
TABLE = {
    "actnorm_ends": False,
    "centred_actnorm": False,
    "preactivation": False,
    "norm": "2",
    "stored_norms": False,
}
IMAGE = {
    "first_preactivation": False,
    "norm": "2",
    "stored_norms": False,
    "centred_actnorm": False,
    "fc_blocks": 0,
    "fc_hidden": [128, 128],
}


@pytest.mark.parametrize(
    ("config", "legacy"),
    [
        (TabularConfig(features=2), TABLE),
        (TabularConfig(features=2, net="spectral"), TABLE),
        (ImageConfig(), IMAGE),
    ],
    ids=["sandwich", "spectral", "image"],
)
def test_fields_that_say_nothing_are_dropped(config, legacy):
    data = json.loads(json.dumps(to_json(config)))
    assert parse(updated({**data, **legacy})) == config
    assert parse(updated(data)) == config


def test_a_preactivation_counts_in_configs_of_images():
    """Tables of ours have none; of images every version has written it, or it is true."""
    data = json.loads(json.dumps(to_json(ImageConfig(preactivation=False))))
    assert parse(updated(data)) == ImageConfig(preactivation=False)
    assert parse(updated({"kind": "image", "preactivation": True})) == ImageConfig()


def test_configs_of_tables_from_before_there_was_a_choice_of_nets():
    found = parse(updated({"kind": "tabular", "features": 2, **TABLE}))
    assert found == TabularConfig(features=2, net="spectral")


CONVERTED = {"stored_norms": True, "centred_actnorm": True}


@pytest.mark.parametrize("kind", ["tabular", "published-tabular"])
@pytest.mark.parametrize("actnorm", [True, False])
def test_converted_tables_of_earlier_versions_load(kind, actnorm, tmp_path):
    own = {"features": 2, "hidden_features": [8, 8], "norm": "222f", "actnorm": actnorm}
    model = ImpFlow(parse({"kind": "published-tabular", **own}))
    folder = saved_as(
        tmp_path / "old",
        model,
        {**to_json(model.config), "kind": kind, "actnorm_ends": actnorm, **CONVERTED},
    )
    loaded = create_model(str(folder), verify=True)
    assert loaded.config == model.config
    x = torch.randn(3, 2)
    assert torch.equal(loaded.log_prob(x), model.eval().log_prob(x))


@pytest.mark.parametrize("kind", ["image", "published-image"])
def test_converted_images_of_earlier_versions_load(kind, tmp_path):
    own = {"channels": 1, "image_size": [4, 4], "blocks": [1], "width": 4, "fc_blocks": 1}
    model = ResFlow(parse({"kind": "published-image", **own}))
    folder = saved_as(tmp_path / "old", model, {**to_json(model.config), "kind": kind, **CONVERTED})
    loaded = ResFlow.from_pretrained(folder, verify=True)
    assert loaded.config == model.config
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(loaded.encode(x), model.eval().encode(x))


def saved_as(folder: Path, model: FlowModel, config: dict[str, Any]) -> Path:
    """A folder of a model with another config than its own."""
    model.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": config}))
    return folder


def test_mistakes_in_old_files_are_named():
    with pytest.raises(ConfigError, match="'norm' belongs to converted checkpoints"):
        parse(updated({"kind": "tabular", "features": 2, **TABLE, "norm": "12f"}))
    with pytest.raises(ConfigError, match="unknown config key 'nrom'"):
        parse(updated({"kind": "tabular", "features": 2, "nrom": "2"}))


@pytest.mark.parametrize("change", [{"net": "sandwich"}, {"frequency": 2.0}], ids=str)
def test_settings_that_converted_models_do_not_have(change):
    with pytest.raises(ConfigError, match="for a converted model"):
        parse({"kind": "published-tabular", "features": 2, **change})


def test_our_configs_have_none_of_these_fields():
    for kind, legacy in ((TabularConfig(features=2), TABLE), (ImageConfig(), IMAGE)):
        assert legacy.keys().isdisjoint(to_json(kind))


def test_the_rooms_of_the_core_do_not_name_this_one():
    """But for the one place that imports it when a file asks for it."""
    package = Path(impflow_zoo.__file__).parent
    rooms = ("numerics", "lipschitz", "fast", "transforms", "models", "training", "publishing")
    named = [
        path.relative_to(package).as_posix()
        for room in rooms
        for path in (package / room).rglob("*.py")
        if "impflow_zoo.published" in path.read_text(encoding="utf-8")
    ]
    assert named == ["models/config.py"]
