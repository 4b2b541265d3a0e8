"""Configs of converted models, which no other room knows."""

from __future__ import annotations

import pytest

from impflow_zoo.models.config import parse
from impflow_zoo.models.fields import ConfigError


@pytest.mark.parametrize("change", [{"net": "sandwich"}, {"frequency": 2.0}], ids=str)
def test_settings_that_converted_models_do_not_have(change):
    with pytest.raises(ConfigError, match="for a converted model"):
        parse({"kind": "published-tabular", "features": 2, **change})
