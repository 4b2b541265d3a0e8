"""Cards: their lines run as printed, and their metadata are what the Hub asks for."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from support import staged_folder
from support.dealt import first_of_each
from support.kinds import kind
from support.snippets import run_snippet

from impflow_zoo import ResFlow, TabularConfig
from impflow_zoo.evaluation.entries import Entry, results_text
from impflow_zoo.models import registry
from impflow_zoo.models.config import to_json
from impflow_zoo.models.filenames import CARD, RECIPE, RESULTS, TRAINING, WEIGHTS
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.zoo.cards import _ends, _steps, model_card
from impflow_zoo.zoo.record import Record

NAMES = [path.parent.name for path in sorted(registry.zoo_folder().glob(f"*/{WEIGHTS}"))]
LARGE = [name for name in NAMES if name.endswith(("-cifar10", "-imagenet64-5bit", "-mnist"))]
OTHERS = [name for name in NAMES if name not in LARGE]


def test_bounds_and_turns_are_stated():
    bounds = {"a": (0, None), "b, c": (0, 1)}
    config = TabularConfig(
        3, columns=("a", "b, c", "d"), bounds=bounds, periodic={"d": (-180, 180)}
    )
    assert _ends(config) == ["a at least 0", '"b, c" 0 to 1', "d an angle, -180 to 180"]
    card = (registry.zoo_folder() / "impflow-torus" / CARD).read_text()
    assert "| values | phi an angle, 0 to 360, psi an angle, 0 to 360 |" in card


def test_rounding_steps_are_stated_by_column():
    assert _steps(TabularConfig(2, columns=("a", "b, c"), rounding={"b, c": 0.5})) == ['"b, c" 0.5']
    assert _steps(TabularConfig(2, rounding=(0.1, 0.0))) == ["0.1"]
    card = (registry.zoo_folder() / "impflow-protein" / CARD).read_text()
    assert "one rounding step (x0 0.01, x1 0.01, " in card


@pytest.mark.parametrize(
    "name",
    first_of_each(lambda name: kind(registry.zoo_folder() / name), OTHERS)
    + [pytest.param(name, marks=pytest.mark.slow) for name in LARGE],
)
def test_snippets_of_the_zoo_run_as_printed(name, capsys):
    run_snippet((registry.zoo_folder() / name / CARD).read_text())
    assert "tensor(" in capsys.readouterr().out


def test_commands_of_a_card_on_the_hub_work_from_top_to_bottom():
    zoo = registry.zoo_folder()
    record = Record(ModelFolder(zoo / "impflow-power-plant"))
    card = model_card(record, address="org/impflow-power-plant")
    fetched = card.index("hf download org/impflow-power-plant recipe.yaml")
    assert fetched < card.index("impflow-zoo train impflow-power-plant/recipe.yaml --data FOLDER\n")
    assert fetched < card.index("--seed 1 --out runs/again")
    assert "hub_configs/" not in card


def test_a_staged_card_names_its_folder_until_publication(folder, tmp_path, monkeypatch, capsys):
    """Its lines run where the folder lies, also after a move."""
    moved = tmp_path / "elsewhere" / folder.name
    moved.parent.mkdir()
    folder.rename(moved)
    staged = (moved / CARD).read_text()
    monkeypatch.chdir(moved.parent)
    run_snippet(staged)
    assert "tensor(" in capsys.readouterr().out
    for line in ('create_model("./tiny")', "evaluate ./tiny\n", "train ./tiny/recipe.yaml\n"):
        assert line in staged
    assert "one folder above this one" in staged
    published = model_card(Record(ModelFolder(moved)), address="org/tiny")
    assert 'create_model("org/tiny")' in published
    assert "./tiny" not in published


def test_a_card_names_a_licence_of_the_weights_only_if_its_recipe_does(folder):
    staged = (folder / CARD).read_text()
    assert ModelCard(staged).data.license is None
    assert "licence of the weights" not in staged
    recipe = yaml.safe_load((folder / RECIPE).read_text())
    recipe["card"]["license"] = "cc-by-4.0"
    (folder / RECIPE).write_text(yaml.safe_dump(recipe))
    named = model_card(Record(ModelFolder(folder)))
    assert ModelCard(named).data.license == "cc-by-4.0"
    assert "| licence of the weights | CC-BY-4.0 |\n" in named


def test_a_card_says_how_far_a_training_came(folder):
    """A recipe may have got another stage since."""
    recipe = yaml.safe_load((folder / RECIPE).read_text())
    done = json.loads((folder / TRAINING).read_text())["steps"]
    recipe["stages"] = [{"steps": done}, {"steps": 1000}]
    (folder / RECIPE).write_text(yaml.safe_dump(recipe))
    card = model_card(Record(ModelFolder(folder)))
    assert f"The first {done} of the recipe's {done + 1000:,} steps" in card
    assert "Train it to the end of the recipe" in card


@pytest.mark.parametrize(
    ("name", "cited"),
    [
        ("mixed-kin8nm", ["lu2021implicit", "durkan2019neural"]),
        ("mixed-protein", ["lu2021implicit", "durkan2019neural"]),
        ("monotone-protein", ["ahn2022invertible"]),
        ("impflow-protein", ["lu2021implicit"]),
    ],
)
def test_cards_cite_the_paper_of_every_kind_of_block(name, cited):
    zoo = registry.zoo_folder()
    text = model_card(Record(ModelFolder(zoo / name)))
    assert re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE) == cited
    assert text.count("| paper | [") == len(cited)


def test_the_card_of_an_image_model(tmp_path, monkeypatch, capsys):
    """Its metadata are what the Hub asks for, and its snippet runs as printed."""
    torch.manual_seed(0)
    config = ImageConfig(channels=1, image_size=(4, 4), blocks=(1,), width=2)
    folder = tmp_path / "pictures"
    ResFlow(config).eval().save_pretrained(folder)
    words = {"summary": "Digits.", "data_name": "digits", "data_license": "CC0"}
    words["dataset_id"] = "someone/digits"
    recipe = {"model": "ResFlow", "config": to_json(config), "card": words}
    (folder / RECIPE).write_text(json.dumps(recipe))
    (folder / TRAINING).write_text(json.dumps(staged_folder.FACTS))
    scored = {"metric": "bits_per_dim", "value": 8.0, "stderr": 0.1, "estimator_stderr": 1e-3}
    how = {"n": 9, "seed": 0, "logdet": "exact", "round_trip": 1e-6}
    entry = Entry(data="digits", split="test", **scored, **how)
    (folder / RESULTS).write_text(results_text([entry]))
    text = model_card(Record(ModelFolder(folder)))
    data = ModelCard(text).data
    assert data.pipeline_tag == "unconditional-image-generation"
    assert data.datasets == ["someone/digits"]
    assert data.metrics == ["bits_per_dim"]
    assert data.eval_results[0].dataset_type == "someone/digits"
    assert data.eval_results[0].metric_value == 8.0
    monkeypatch.chdir(tmp_path)
    run_snippet(text)
    assert "tensor(" in capsys.readouterr().out
