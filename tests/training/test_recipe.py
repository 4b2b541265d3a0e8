"""Recipes: what they mean when they say little, and every mistake in one by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.small_models import write_recipe

from impflow_zoo import TabularConfig
from impflow_zoo.models.data_settings import DataSettings
from impflow_zoo.models.fields import ConfigError
from impflow_zoo.training.recipe import (
    CardSettings,
    Recipe,
    TrainingSettings,
    fingerprint,
    read_recipe,
)


def write(folder: Path, **recipe: Any) -> Path:
    """A recipe of the sections given, and no other."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_a_recipe_needs_a_model_and_a_config_alone(tmp_path):
    config = {"kind": "tabular", "features": 3}
    assert read_recipe(write(tmp_path, model="ResFlow", config=config)) == Recipe(
        "ResFlow", TabularConfig(features=3), DataSettings(), TrainingSettings(), CardSettings()
    )


def test_every_section_is_read(tmp_path):
    path = write(
        tmp_path,
        model="ImpFlow",
        config={"kind": "tabular", "features": 2, "columns": ["a", "b"], "lipschitz": 0.5},
        data={"dataset": "owner/data", "revision": "abc", "validation_rows": 10},
        training={"steps": 7, "learning_rate": 1, "final_learning_rate": None, "patience": 3},
        card={"limits": ["one"]},
    )
    recipe = read_recipe(path)
    assert recipe.config == TabularConfig(features=2, columns=("a", "b"), lipschitz=0.5)
    assert recipe.data == DataSettings("owner/data", "abc", validation_rows=10)
    assert recipe.training == TrainingSettings(
        steps=7, learning_rate=1.0, final_learning_rate=None, patience=3
    )
    assert recipe.card == CardSettings(limits=("one",))


WRONG = {
    "unknown section": ({"trainig": {}}, "unknown recipe key 'trainig': choose model, config"),
    "unknown model": ({"model": "Glow"}, "unknown model 'Glow': .*ImpFlow"),
    "no model": ({"model": None}, "unknown model None"),
    "no config": ({"config": None}, "config holds nothing: settings by name"),
    "no kind": ({"config": {"features": 2}}, "'kind' is missing: tabular or image"),
    **{
        f"{name} of {value}": ({name: value}, f"'{name}' is .*{kind} expected")
        for name, kind, values in (
            ("data", "settings by name", (None,)),
            ("training", "settings by name", (None, 0, False, "", [])),
            ("card", "settings by name", (None,)),
            ("stages", "list", (None, 0, False, "", {})),
        )
        for value in values
    },
    "too many stages": ({"stages": [{}] * 101}, "stages=.*: 100 at most"),
    "section of a list": ({"data": [1]}, r"'data' is \[1\]: settings by name"),
    "section of text": ({"training": "fast"}, "'training' is 'fast': settings by name"),
    "unknown setting": (
        {"training": {"batchsize": 5}},
        "unknown config key 'training.batchsize'.*'batch_size'",
    ),
    "unknown data setting": ({"data": {"set": "x"}}, "unknown config key 'data.set'"),
    "text for a number": (
        {"training": {"learning_rate": "1e-3"}},
        "'training.learning_rate' is '1e-3': float .*without quotes",
    ),
    "tiny number as text": (
        {"training": {"weight_decay": "125e-8"}},
        "float expected, without quotes",
    ),
    "text for a count": ({"training": {"steps": "1e4"}}, "int expected, without quotes"),
    "words for a number": ({"training": {"learning_rate": "fast"}}, "'fast': float expected$"),
    "fraction for a count": ({"training": {"steps": 1.5}}, "'training.steps' is 1.5: int expected"),
    "number for a name": ({"data": {"dataset": 5}}, "'data.dataset' is 5: str expected"),
    "no steps": ({"training": {"steps": 0}}, "steps=0: at least 1"),
    "no batch": ({"training": {"batch_size": 0}}, "batch_size=0: at least 1"),
    "no patience": ({"training": {"patience": 0}}, "patience=0: at least 1"),
    "no validation": ({"training": {"validation_limit": 0}}, "validation_limit=0: at least 1"),
    "negative warm-up": ({"training": {"warmup_steps": -1}}, "warmup_steps=-1: at least 0"),
    "negative decay": ({"training": {"weight_decay": -0.1}}, "weight_decay=-0.1: at least 0"),
    "unknown optimizer": (
        {"training": {"optimizer": "sgd"}},
        "unknown optimizer 'sgd': choose adamw, muon",
    ),
    "no rate": ({"training": {"learning_rate": 0}}, "learning_rate=0.0: a positive number"),
    "rate that turns": (
        {"training": {"final_learning_rate": -0.1}},
        "final_learning_rate=-0.1: at least 0",
    ),
    "nothing held back": ({"data": {"validation_rows": 0}}, "validation_rows=0: at least 1"),
    "revision of nothing": (
        {"data": {"validation_rows": 5, "revision": "abc"}},
        "data.revision needs a Hub set",
    ),
    "mirrored rows": ({"training": {"flip": True}}, "training.flip: tables cannot be mirrored"),
    "rows that cannot be made": ({"data": {"train_rows": 0}}, "train_rows=0: at least 1"),
    "no gradient": ({"training": {"clip_norm": 0}}, "clip_norm=0.0: a positive number"),
    "average that never moves": ({"training": {"ema_decay": 1}}, "ema_decay=1.0: between 0 and 1"),
    "name of a licence": ({"card": {"license": "MIT"}}, "license='MIT': the Hub's id of a licence"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_named(change, message, tmp_path):
    recipe = yaml.safe_load(write_recipe(tmp_path).read_text())
    path = write(tmp_path, **{**recipe, **change})
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"recipe {path}")
    assert "\n" not in str(caught.value)


FILES = {
    "missing": (None, "cannot be read: No such file"),
    "empty": (b"", "holds no settings"),
    "a list": (b"- 1\n", "holds no settings"),
    "cut": (b"model: [", "is not valid YAML"),
    "indented": (b"model: ImpFlow\n  config: 3\n", "YAML: line 2: mapping values"),
    "key of two parts": (b"? [a, b]\n: 3\n", "is not valid YAML"),
    "larger than any recipe": (b"#" * 300_000, "larger than 250,000 bytes"),
    "twice": (b"training:\n  steps: 3\n  steps: 4\n", "line 3: 'steps' given twice"),
    "binary": (b"\xff\xfe\x00", "is not valid YAML"),
    "code": (b"model: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_recipe_is_refused(content, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)


def test_recipes_that_train_alike_share_a_fingerprint(tmp_path):
    def of(**sections: Any) -> str:
        return fingerprint(read_recipe(write_recipe(tmp_path, **sections)))

    plain = of()
    assert of(training={"seed": 3}, card={"summary": "Another."}) == plain
    assert of(training={"weight_decay": 0.0}, config={"solver": {}}) == plain  # the defaults
    others = [
        of(training={"weight_decay": 0.1}),
        of(config={"solver": {"method": "newton"}}),
        of(data={"dataset": "toy:rings"}),
        of(model="ResFlow"),
    ]
    assert len({plain, *others}) == 5
