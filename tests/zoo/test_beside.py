"""What stands beside a model's number: figures from one file, siblings from their folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from support import staged_folder

from impflow_zoo.models.fields import ConfigError
from impflow_zoo.models.folder import RESULTS, TRAINING, ModelFolder
from impflow_zoo.zoo.cards import FIGURES, figures, siblings, trained_card
from impflow_zoo.zoo.record import Record, records

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
    own = Record(ModelFolder(zoo / "one"))
    return [line.name for line in (*figures(zoo, own.data), *siblings(own, records(zoo)))]


def change(path: Path, **facts: object) -> None:
    data = json.loads(path.read_text())
    (data[0] if isinstance(data, list) else data).update(facts)
    path.write_text(json.dumps(data))


def test_a_card_shows_figures_of_its_data_and_its_siblings(zoo):
    assert names(zoo) == ["a Gaussian", "two, same size and rows seen"]
    change(zoo / "two" / RESULTS, value=-1.2345, stderr=0.01)
    card = trained_card(Record(ModelFolder(zoo / "one")), zoo)
    assert "| a Gaussian | -3.1 ± 0.1 |" in card
    assert "| two, same size and rows seen | -1.234 ± 0.010 |" in card
    assert "- two, same size and rows seen: `impflow-zoo evaluate two`" in card


def test_what_differs_between_siblings_is_said(zoo):
    change(zoo / "two" / TRAINING, rows_seen=2000)
    assert names(zoo)[-1] == "two, same size, 2,000 rows seen"


@pytest.mark.parametrize("other", [{"data": "suns"}, {"split": "train"}, {"metric": "bits"}])
def test_models_scored_on_other_rows_are_no_siblings(other, zoo):
    change(zoo / "two" / RESULTS, **other)
    assert names(zoo) == ["a Gaussian"]


def test_a_figure_without_a_value_is_refused(zoo):
    (zoo / FIGURES).write_text("moons: [{name: a Gaussian}]\n")
    with pytest.raises(ConfigError, match=r"figures.yaml: .*value' is missing"):
        names(zoo)
