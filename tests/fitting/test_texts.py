"""The text of a recipe: short to read, and exact."""

from __future__ import annotations

import numpy
import pandas
import yaml

from impflow_zoo.data.frames import in_memory
from impflow_zoo.fitting import describe
from impflow_zoo.fitting.texts import recipe_text


def test_sections_have_a_line_for_each_setting_and_numbers_are_read_back_as_they_were():
    table = in_memory(pandas.DataFrame(numpy.random.default_rng(0).normal(size=(400, 2))))
    assert table is not None
    config = {"hidden_features": [64, 64], "columns": ["Höhe", "0"], "bounds": {"0": [1e-05, 0.1]}}
    training = {"steps": 700, "learning_rate": 1e-05, "weight_decay": 0.1 + 0.2}
    text = recipe_text(describe(table, ()), "ImpFlow", config, [training], head="found by hand")
    assert text.startswith("# found by hand\n")
    assert "\n  hidden_features: [64, 64]\n  columns: [Höhe, '0']\n" in text
    assert yaml.safe_load(text) == {"model": "ImpFlow", "config": config, "training": training}
