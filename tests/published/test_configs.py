"""Configs of converted models: what earlier versions wrote loads, and no other room knows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import impflow_zoo
from impflow_zoo import ImageConfig, ImpFlow, ResFlow, TabularConfig, create_model
from impflow_zoo.models.config import parse, to_json, updated
from impflow_zoo.models.fields import ConfigError
from impflow_zoo.models.folder import CONFIG
from impflow_zoo.published import PublishedImageConfig, PublishedTabularConfig

# What configs of the version before had beside today's fields.
TABLE = {
    "actnorm_ends": False,
    "centred_actnorm": False,
    "preactivation": False,
    "norm": "2",
    "stored_norms": False,
}
IMAGE = {
    "preactivation": True,
    "first_preactivation": False,
    "norm": "2",
    "stored_norms": False,
    "centred_actnorm": False,
    "fc_blocks": 0,
    "fc_hidden": [128, 128],
}
SMALL = {"net": "spectral", "blocks": 2, "hidden_features": [6]}
SMALL_IMAGE = {"channels": 1, "image_size": [4, 4], "blocks": [1, 1], "width": 4}
TABLES = {
    "actnorm ends": {"actnorm_ends": True},
    "centred": {"centred_actnorm": True},
    "preactivation": {"preactivation": True},
    "infinity": {"norm": "inf"},
    "mixed": {"norm": "12f"},
    "stored": {"stored_norms": True},
    "activation": {"activation": "published-lcube"},
}
IMAGES = {
    "no preactivation": {"preactivation": False},
    "first preactivation": {"first_preactivation": True, "activation": "published-relu"},
    "stored": {"stored_norms": True, "norm": "22f2"},
    "centred": {"centred_actnorm": True},
    "flat end": {"fc_blocks": 1, "fc_hidden": [5, 3], "norm": "pppp"},
}


def old_file(folder: Path, model: ImpFlow, config: dict) -> Path:
    """A saved model whose config is one that an earlier version has written."""
    model.save_pretrained(folder)
    content = json.loads((folder / CONFIG).read_text())
    content["config"] = config
    (folder / CONFIG).write_text(json.dumps(content))
    return folder


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


def test_configs_of_tables_from_before_there_was_a_choice_of_nets():
    found = parse(updated({"kind": "tabular", "features": 2, **TABLE}))
    assert found == TabularConfig(features=2, net="spectral")


@pytest.mark.parametrize("change", TABLES.values(), ids=TABLES)
def test_tables_of_an_earlier_version_load(change, tmp_path):
    old = {"features": 2, **SMALL, **TABLE, **change}
    model = ImpFlow(parse({"kind": "published-tabular", **old})).eval()
    model.log_prob(torch.randn(9, 2))
    folder = old_file(tmp_path, model, {"kind": "tabular", **old})
    loaded = create_model(folder, verify=True)
    assert type(loaded) is ImpFlow
    assert loaded.config == model.config
    assert type(loaded.config) is PublishedTabularConfig
    x = torch.randn(3, 2)
    assert torch.equal(loaded.log_prob(x), model.log_prob(x))
    loaded.save_pretrained(tmp_path / "again")
    again = create_model(tmp_path / "again", verify=True)
    assert torch.equal(again.log_prob(x), model.log_prob(x))


@pytest.mark.parametrize("change", IMAGES.values(), ids=IMAGES)
def test_images_of_an_earlier_version_load(change, tmp_path):
    old = {**SMALL_IMAGE, **IMAGE, **change}
    model = ResFlow(parse({"kind": "published-image", **old})).eval()
    folder = old_file(tmp_path, model, {"kind": "image", **old})
    loaded = ResFlow.from_pretrained(folder, verify=True)
    assert loaded.config == model.config
    assert type(loaded.config) is PublishedImageConfig
    x = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(loaded.encode(x), model.encode(x))


@pytest.mark.parametrize("activation", ["relu", "fullsort"])
def test_dense_nets_of_an_earlier_version_take_published_activations(activation):
    old = {"kind": "image", "channels": 3, "image_size": [4, 4], "blocks": [1], "width": 6}
    config = parse(updated({**old, "net": "dense", "activation": f"published-{activation}"}))
    x = torch.rand(2, 3, 4, 4)
    assert ResFlow(config).eval().log_prob(x).isfinite().all()


def test_mistakes_in_old_files_are_named():
    with pytest.raises(ConfigError, match="unknown norm '2x'"):
        parse(updated({"kind": "tabular", "features": 2, **TABLE, "norm": "2x"}))
    with pytest.raises(ConfigError, match="unknown config key 'nrom'"):
        parse(updated({"kind": "tabular", "features": 2, "nrom": "2"}))


def test_our_configs_have_none_of_these_fields():
    for kind, legacy in ((TabularConfig(features=2), TABLE), (ImageConfig(), IMAGE)):
        assert legacy.keys().isdisjoint(to_json(kind))
    with pytest.raises(ConfigError, match="unknown activation 'published-relu'"):
        TabularConfig(features=2, net="spectral", activation="published-relu")


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
