"""What stands beside a model's number: figures from one file, siblings from their folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from support import staged_folder
from support.checkout import CHECKOUT

from impflow_zoo.models import layout
from impflow_zoo.models.config import ConfigError
from impflow_zoo.publishing.beside import FIGURES, beside
from impflow_zoo.publishing.cards import trained_card
from impflow_zoo.recipe import read_recipe

GAUSSIAN = {"name": "a Gaussian", "value": "-3.1", "stderr": "0.1", "source": "`a command`"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return staged_folder.stage(tmp_path_factory.mktemp("made") / "one")


@pytest.fixture
def zoo(original: Path, tmp_path: Path) -> Path:
    """Two models on the same rows, and figures."""
    for name in ("one", "two"):
        shutil.copytree(original, tmp_path / name)
    figures = {"moons": [GAUSSIAN], "suns": [{**GAUSSIAN, "name": "of other data"}]}
    (tmp_path / FIGURES).write_text(yaml.safe_dump(figures))
    return tmp_path


def names(zoo: Path) -> list[str]:
    folder = zoo / "one"
    return [line.name for line in beside(folder, read_recipe(folder / layout.RECIPE), zoo)]


def change(path: Path, **facts: object) -> None:
    data = json.loads(path.read_text())
    (data[0] if isinstance(data, list) else data).update(facts)
    path.write_text(json.dumps(data))


def test_a_card_shows_figures_of_its_data_and_its_siblings(zoo):
    assert names(zoo) == ["a Gaussian", "two, same size and rows seen"]
    change(zoo / "two" / layout.RESULTS, value=-1.2345, stderr=0.01)
    card = trained_card(zoo / "one")
    assert "| a Gaussian | -3.1 ± 0.1 |" in card
    assert "| two, same size and rows seen | -1.234 ± 0.010 |" in card
    assert "- two, same size and rows seen: `impflow-zoo evaluate two`" in card


def test_what_differs_between_siblings_is_said(zoo):
    change(zoo / "two" / layout.TRAINING, rows_seen=2000)
    assert names(zoo)[-1] == "two, same size, 2,000 rows seen"


@pytest.mark.parametrize("other", [{"data": "suns"}, {"split": "train"}, {"metric": "bits"}])
def test_models_scored_on_other_rows_are_no_siblings(other, zoo):
    change(zoo / "two" / layout.RESULTS, **other)
    assert names(zoo) == ["a Gaussian"]


def test_a_figure_without_a_value_is_refused(zoo):
    (zoo / FIGURES).write_text("moons: [{name: a Gaussian}]\n")
    with pytest.raises(ConfigError, match=r"figures.yaml: .*value' is missing"):
        names(zoo)


def test_nothing_is_typed_twice():
    """No recipe of the zoo holds a number of another model, or one that `figures.yaml` has."""
    zoo = CHECKOUT / "hub_configs"
    for path in zoo.glob("*/recipe.yaml"):
        assert path.parent.name.endswith("-published") or not read_recipe(path).card.beside
