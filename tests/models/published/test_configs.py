"""Configs of converted models, which no other room knows."""

from __future__ import annotations

import json

import pytest

from impflow_zoo import ImpFlow, TabularConfig, create_model
from impflow_zoo.models.config import parse, to_json
from impflow_zoo.models.fields import ConfigError


def test_configs_of_tables_from_before_there_were_frequencies(tmp_path):
    model = ImpFlow(TabularConfig(features=2, blocks=1, hidden_features=(8,), frequency=None))
    data = to_json(model.config)
    del data["net"], data["frequency"]
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": data}))
    assert create_model(str(tmp_path), verify=True).config == model.config


@pytest.mark.parametrize("change", [{"net": "sandwich"}, {"frequency": 2.0}], ids=str)
def test_settings_that_converted_models_do_not_have(change):
    with pytest.raises(ConfigError, match="for a converted model"):
        parse({"kind": "published-tabular", "features": 2, **change})
