"""Trainings that start from a model: what that had cost counts where it was for the same task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small import CARD, make, write_recipe

from impflow_zoo import ImpFlow, ResFlow, staging, training
from impflow_zoo.facts import TRAINING, Part, TrainingFacts, read_log
from impflow_zoo.models import layout
from impflow_zoo.models.config import ModelError
from impflow_zoo.publishing import inspect
from impflow_zoo.runlog import LOG

CITED = {**CARD, "data_citation": "Made by this package."}


def train(out: Path, steps: int, init_from: Path | None = None, **sections: Any) -> Path:
    """A run of so many steps of 32 rows, validated at its end."""
    settings = {"steps": steps, "validate_every": steps, "seed": steps}
    sections = {"card": CITED, "training": settings, **sections}
    recipe = write_recipe(out.parent / "recipes" / out.name, **sections)
    start = None if init_from is None else str(init_from)
    training.train(recipe, out=out, init_from=start, progress=False)
    return out


def facts(run: Path) -> TrainingFacts:
    return read_log(run / LOG)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """`first`, `second` and `third`, each from the weights of the one before."""
    folder = tmp_path_factory.mktemp("runs")
    first = train(folder / "first", 4)
    second = train(folder / "second", 3, first)
    train(folder / "third", 2, second)
    return folder


def test_steps_rows_and_minutes_are_those_of_all_runs(runs):
    first, second, third = (facts(runs / name) for name in ("first", "second", "third"))
    assert (first.parts, first.last_steps) == ([], 4)
    assert (second.steps, second.rows_seen, second.last_steps, second.seed) == (7, 7 * 32, 3, 3)
    assert second.parts == [Part(4, first.minutes), Part(3, second.minutes)]
    assert (third.steps, third.rows_seen, third.last_steps) == (9, 9 * 32, 2)
    assert [part.steps for part in third.parts] == [4, 3, 2]


def test_the_curve_goes_on_where_the_first_ended(runs):
    first, second, third = (facts(runs / name) for name in ("first", "second", "third"))
    assert [rows for rows, *_ in third.curve] == [128, 224, 288]
    assert third.curve[:2] == second.curve
    assert second.curve[:1] == first.curve
    assert second.curve[1][1] >= 60 * first.minutes


def test_shares_of_roots_are_weighted_by_steps():
    cost = {"rows_seen": 0, "minutes": 1.04, "skipped_steps": 2, "curve": []}
    before = TrainingFacts(steps=10, hardware="a", unconverged_fraction=0.1, **cost)
    whole = TrainingFacts(steps=30, hardware="b", unconverged_fraction=0.5, **cost).after(before)
    assert whole.unconverged_fraction == pytest.approx(0.4)
    assert (whole.skipped_steps, whole.minutes, whole.hardware) == (4, 2.1, "a and b")


def test_a_run_keeps_the_recipes_of_those_before_it(runs):
    kept = [runs / "third" / name for name in ("recipe-1.yaml", "recipe-2.yaml", "recipe.yaml")]
    for path, name in zip(kept, ("first", "second", "third"), strict=True):
        assert path.read_text() == (runs / "recipes" / name / "recipe.yaml").read_text()
    assert layout.earlier_recipes(runs / "third") == ["recipe-1.yaml", "recipe-2.yaml"]


def test_a_resumed_run_still_counts_what_was_before_it(runs, tmp_path):
    recipe = write_recipe(tmp_path / "recipe", training={"checkpoint_minutes": 0})
    options = {"out": tmp_path / "run", "progress": False}
    training.train(recipe, init_from=str(runs / "first"), max_minutes=0, **options)
    training.train(recipe, resume=True, **options)
    assert facts(tmp_path / "run").rows_seen == 8 * 32


@pytest.fixture
def staged(runs, tmp_path) -> Path:
    """The folder of a model, from the third run."""
    folder = tmp_path / "flow"
    folder.mkdir()
    shutil.copy(runs / "third" / layout.RECIPE, folder)
    staging.stage(runs / "third", folder)
    return folder


def test_the_card_tells_all_runs_and_how_to_make_them_again(staged):
    text = (staged / layout.CARD).read_text()
    assert "9 steps of 32 rows (288 rows seen)" in text
    assert "in 3 runs (4 and 3 and 2 steps), each from the weights of the last" in text
    assert (
        """
impflow-zoo train hub_configs/flow/recipe-1.yaml --out runs/flow-1
impflow-zoo train hub_configs/flow/recipe-2.yaml --init-from runs/flow-1 --out runs/flow-2
impflow-zoo train hub_configs/flow/recipe.yaml --init-from runs/flow-2
"""
        in text
    )
    assert "Train it again:" in text


def test_earlier_recipes_are_published(staged):
    parcel = inspect(staged)
    assert parcel.problems == ()
    assert {"recipe-1.yaml", "recipe-2.yaml", "recipe.yaml"} <= set(parcel.files)


def test_a_staged_model_is_gone_on_from_like_its_run(runs, staged, tmp_path):
    again = facts(train(tmp_path / "fourth", 5, staged))
    assert [part.steps for part in again.parts] == [4, 3, 2, 5]
    assert layout.earlier_recipes(tmp_path / "fourth")[-1] == "recipe-3.yaml"


def test_recipes_of_other_weights_go(runs, staged):
    shutil.copy(runs / "first" / layout.RECIPE, staged)
    staging.stage(runs / "first", staged)
    assert layout.earlier_recipes(staged) == []
    assert TrainingFacts.read(staged).parts == []
    assert "recipe-1.yaml" not in (staged / layout.CARD).read_text()


def test_a_failed_staging_leaves_them(runs, staged, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no pictures today")

    monkeypatch.setattr(staging.pictures, "draw_curve", fail)
    shutil.copy(runs / "first" / layout.RECIPE, staged)
    with pytest.raises(RuntimeError, match="no pictures today"):
        staging.stage(runs / "first", staged)
    assert layout.earlier_recipes(staged) == ["recipe-1.yaml", "recipe-2.yaml"]
    assert [part.steps for part in TrainingFacts.read(staged).parts] == [4, 3, 2]


OTHERS = {
    "other data": {"data": {"dataset": "toy:circles"}},
    "a file is missing": {},
    "a damaged file": {},
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_was_spent_on_something_else_or_is_unknown_does_not_count(case, staged, tmp_path):
    if case == "a file is missing":
        (staged / TRAINING).unlink()
    if case == "a damaged file":
        (staged / TRAINING).write_text("{")
    found = facts(train(tmp_path / "own", 2, staged, **OTHERS[case]))
    assert (found.steps, found.rows_seen, found.parts) == (2, 64, [])
    assert found.init_from == "flow"
    assert layout.earlier_recipes(tmp_path / "own") == []


def test_a_card_names_the_model_it_started_from(tmp_path):
    torch.manual_seed(0)
    model = make(ImpFlow, blocks=1, hidden_features=(8,)).float()
    model.save_pretrained(tmp_path / "elsewhere")
    run = train(tmp_path / "flow", 2, tmp_path / "elsewhere")
    assert str(tmp_path) not in (run / LOG).read_text()  # where folders lie is nobody's business
    staging.stage(run, run)
    text = (run / layout.CARD).read_text()
    assert "starting from the weights of elsewhere: Adam" in text
    assert "recipe.yaml --init-from elsewhere\n" in text


def test_weights_of_another_class_are_no_start_whatever_they_cost(tmp_path):
    other = train(tmp_path / "other", 1, model="ResFlow")
    with pytest.raises(ModelError, match=r"tensors .*missing"):
        train(tmp_path / "run", 1, other)
    assert ResFlow.from_pretrained(other)
    assert not (tmp_path / "run").exists()


def test_a_log_that_does_not_tell_what_was_before(runs, tmp_path):
    first, *lines = (runs / "second" / LOG).read_text().splitlines()
    line = {**json.loads(first), "before": {"hours": 3}}
    (tmp_path / LOG).write_text("\n".join([json.dumps(line), *lines]))
    with pytest.raises(ModelError, match="does not say what an earlier training cost"):
        facts(tmp_path)
