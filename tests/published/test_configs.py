"""Configs of converted models: what earlier versions wrote loads, and no other room knows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import impflow_zoo
from impflow_zoo import ImageConfig, TabularConfig
from impflow_zoo.models.config import parse, to_json, updated
from impflow_zoo.models.fields import ConfigError

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


def test_mistakes_in_old_files_are_named():
    with pytest.raises(ConfigError, match="'norm' is no longer .*convert"):
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
