"""Trainings that start from a model: what that had cost counts where it was for the same task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small import CARD, make, write_recipe
from staged import FACTS

from impflow_zoo import ImpFlow, ResFlow, training
from impflow_zoo.facts import TRAINING, Part, TrainingFacts, read_log
from impflow_zoo.models import layout
from impflow_zoo.models.config import ModelError
from impflow_zoo.publishing import staging
from impflow_zoo.publishing.sending import inspect
from impflow_zoo.recipe import read_recipe
from impflow_zoo.runlog import LOG
from impflow_zoo.training.run_folder import CHECKPOINT

CITED = {**CARD, "data_citation": "Made by this package."}


def write(out: Path, steps: int, **sections: Any) -> Path:
    """The recipe of a run of so many steps of 32 rows, validated at its end."""
    settings = {"steps": steps, "validate_every": steps, "seed": steps}
    settings |= sections.pop("training", {})
    return write_recipe(
        out.parent / "recipes" / out.name, card=CITED, training=settings, **sections
    )


def train(out: Path, steps: int, init_from: Path | None = None, **sections: Any) -> Path:
    """Such a run; returns its folder."""
    options = {key: sections.pop(key) for key in ("seed", "data_from") if key in sections}
    start = None if init_from is None else str(init_from)
    training.train(
        write(out, steps, **sections),
        out=out,
        init_from=start,
        seed=options.get("seed"),
        data=options.get("data_from"),
        progress=False,
    )
    return out


def kept(folder: Path) -> list[str]:
    """Recipes in a folder, but for the last run's."""
    return sorted(path.name for path in folder.glob("recipe-*.yaml"))


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
    assert (first.parts, first.last_steps) == ((), 4)
    assert (second.steps, second.rows_seen, second.last_steps, second.seed) == (7, 7 * 32, 3, 3)
    assert second.parts[0] == Part(4, 128, first.minutes, first.hardware)
    assert [part.rows_seen for part in second.parts] == [128, 96]
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
    last = TrainingFacts(steps=30, hardware="b", unconverged_fraction=0.5, **cost)
    whole = last.after(before)
    assert whole.unconverged_fraction == pytest.approx(0.4)
    assert (whole.skipped_steps, whole.minutes, whole.hardware) == (4, 2.1, "a and b")
    assert before.after(whole).hardware == "a and b"


def test_a_run_keeps_the_recipes_of_those_before_it(runs):
    found = [runs / "third" / name for name in ("recipe-1.yaml", "recipe-2.yaml", "recipe.yaml")]
    for path, name in zip(found, ("first", "second", "third"), strict=True):
        assert path.read_text() == (runs / "recipes" / name / "recipe.yaml").read_text()
    assert kept(runs / "third") == ["recipe-1.yaml", "recipe-2.yaml"]


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
    assert "in 3 runs (4, 3 and 2 steps), each from the weights of the one before" in text
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
    assert kept(tmp_path / "fourth")[-1] == "recipe-3.yaml"


def test_recipes_of_other_weights_go(runs, staged):
    shutil.copy(runs / "first" / layout.RECIPE, staged)
    staging.stage(runs / "first", staged)
    assert kept(staged) == []
    assert TrainingFacts.read(staged).parts == ()
    assert "recipe-1.yaml" not in (staged / layout.CARD).read_text()


def test_damaged_facts_do_not_keep_a_new_run_out(runs, staged):
    damage(staged, TRAINING, "{")
    staging.stage(runs / "third", staged)
    assert [part.steps for part in TrainingFacts.read(staged).parts] == [4, 3, 2]


def test_a_failed_staging_leaves_them(runs, staged, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no pictures today")

    monkeypatch.setattr(staging.pictures, "draw_curve", fail)
    shutil.copy(runs / "first" / layout.RECIPE, staged)
    with pytest.raises(RuntimeError, match="no pictures today"):
        staging.stage(runs / "first", staged)
    assert kept(staged) == ["recipe-1.yaml", "recipe-2.yaml"]
    assert [part.steps for part in TrainingFacts.read(staged).parts] == [4, 3, 2]


def damage(folder: Path, name: str, text: str | None) -> None:
    """Write something else into a file; None removes it."""
    (folder / name).write_text(text) if text is not None else (folder / name).unlink()


DAMAGES = {
    "no JSON": (TRAINING, "{", "training.json is damaged"),
    "text for a number": (TRAINING, json.dumps({**FACTS, "steps": "6"}), "json is damaged"),
    "half a point": (TRAINING, json.dumps({**FACTS, "curve": [[1]]}), "json is damaged"),
    "a missing recipe": ("recipe-1.yaml", None, "there is no recipe-1.yaml"),
    "a damaged recipe": (layout.RECIPE, "{", "is no valid YAML"),
    "a log of noise": (LOG, "\x00\x01", "holds no line of a training"),
    "a log of words": (LOG, '{"step": "a", "rows_seen": 1, "seconds": 1}', "holds no line"),
}


@pytest.mark.parametrize(("name", "text", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_cost_that_cannot_be_read_does_not_count(name, text, reason, staged, tmp_path):
    damage(staged, name, text)
    if name == LOG:  # which only matters where the facts are not written
        (staged / TRAINING).unlink()
    with pytest.warns(UserWarning, match=f"flow had cost is not known .*: .*{reason}"):
        own = train(tmp_path / "own", 2, staged)
    assert (facts(own).rows_seen, facts(own).parts, facts(own).init_from) == (64, (), "flow")
    assert kept(own) == []


@pytest.mark.parametrize("name", [TRAINING, layout.RECIPE])
def test_weights_without_a_history_have_none(name, staged, tmp_path):
    damage(staged, name, None)
    assert facts(train(tmp_path / "own", 2, staged)).init_from == "flow"


@pytest.mark.parametrize("named", ["nothing", "other rows", "the same rows"])
def test_rows_of_models_that_do_not_say_what_they_saw_go_by_names(named, staged, tmp_path):
    known = json.loads((staged / TRAINING).read_text())
    damage(staged, TRAINING, json.dumps({**known, "data": "", "recipe": ""}))
    if named == "nothing":
        recipe = yaml.safe_load((staged / layout.RECIPE).read_text())
        damage(staged, layout.RECIPE, yaml.safe_dump({**recipe, "data": {"dataset": None}}))
    sections = {"data": {"dataset": None}} if named == "nothing" else {}
    given = None if named == "the same rows" else "toy:moons"
    own = train(tmp_path / "own", 2, staged, data_from=given, **sections)
    assert facts(own).rows_seen == (352 if named == "the same rows" else 64)


def test_a_cost_on_other_rows_does_not_count(runs, tmp_path):
    """By the rows themselves: the recipe may name none, and the user others."""
    own = train(tmp_path / "own", 2, runs / "first", data_from="toy:circles")
    assert (facts(own).rows_seen, facts(own).init_from) == (64, "first")
    same = train(tmp_path / "same", 2, runs / "first", config={"logdet": {"mode": "unbiased"}})
    assert facts(same).rows_seen == 6 * 32


def test_a_recipe_that_was_changed_since_is_noticed(staged, tmp_path):
    """It would be kept as the one of the first run."""
    shutil.copy(write(tmp_path / "own", 6), staged / layout.RECIPE)
    with pytest.raises(ModelError, match=r"flow/recipe.yaml was changed since the weights .*back"):
        train(tmp_path / "own", 6, staged)
    assert not (tmp_path / "own").exists()


def test_a_run_by_another_recipe_is_not_staged(runs, staged):
    for name, value in (("batch_size", 64), ("steps", 9)):
        recipe = yaml.safe_load((runs / "third" / layout.RECIPE).read_text())
        recipe["training"][name] = value
        (staged / layout.RECIPE).write_text(yaml.safe_dump(recipe))
        with pytest.raises(ModelError, match=rf"another recipe .*\(training.{name}\): copy .*yaml"):
            staging.stage(runs / "third", staged)


def test_seeds_that_were_asked_for_stay_with_the_recipes(tmp_path):
    first = train(tmp_path / "first", 4, seed=11)
    shutil.copy(tmp_path / "recipes" / "first" / layout.RECIPE, tmp_path)
    folder = tmp_path / "flow"
    folder.mkdir()
    (tmp_path / layout.RECIPE).rename(folder / layout.RECIPE)
    staging.stage(first, folder)
    second = train(tmp_path / "second", 2, folder)
    assert read_recipe(second / "recipe-1.yaml").training.seed == 11


def test_a_run_that_starts_anew_has_no_recipes_of_the_one_before(runs, tmp_path):
    out = train(tmp_path / "own", 1, runs / "first")
    (out / CHECKPOINT).unlink()  # as if it had been killed before
    (out / layout.WEIGHTS).unlink()
    train(tmp_path / "own", 1)
    folder = tmp_path / "flow"
    folder.mkdir()
    shutil.copy(out / layout.RECIPE, folder)
    staging.stage(out, folder)
    assert kept(folder) == []


def test_recipes_of_the_user_are_left_alone(runs, staged, tmp_path):
    """In the folder of a run that is to start, in that of a model, and on their way to the Hub."""
    draft = staged / "recipe-7.yaml"
    draft.write_text("draft: [unfinished")
    assert draft.name not in inspect(staged).files
    shutil.copy(runs / "first" / layout.RECIPE, staged)
    staging.stage(runs / "first", staged)
    assert kept(staged) == [draft.name]
    own = tmp_path / "own"
    own.mkdir()
    recipe = write(own, 2).rename(own / "recipe-2.yaml")
    elsewhere = tmp_path / "elsewhere.yaml"
    shutil.copy(recipe, elsewhere)
    for path in (recipe, elsewhere):
        with pytest.raises(ModelError, match="choose another --out"):
            training.train(path, out=own, init_from=str(runs / "first"), progress=False)
    assert [path.name for path in own.iterdir()] == ["recipe-2.yaml"]


def test_a_model_whose_recipes_are_gone_is_neither_staged_nor_sent(staged):
    damage(staged, "recipe-1.yaml", None)
    with pytest.raises(ModelError, match="has no recipe-1.yaml, the recipe of an earlier run"):
        staging.stage(None, staged)
    assert "no recipe-1.yaml" in inspect(staged).problems


def test_a_card_is_not_made_from_a_recipe_that_was_changed_since(staged):
    shutil.copy(write(staged.parent / "own", 6), staged / layout.RECIPE)
    with pytest.raises(ModelError, match=r"flow/recipe.yaml was changed since .*from a new run"):
        staging.stage(None, staged)


def test_runs_from_other_weights_are_no_repeats(runs, tmp_path):
    own = train(tmp_path / "own", 2, runs / "first")
    make(blocks=1, hidden_features=(8,)).float().save_pretrained(tmp_path / "else")
    (tmp_path / "b").mkdir()
    slow = {"training": {"learning_rate": 0.5}}
    others = [
        train(tmp_path / "fresh", 2, seed=7),
        train(tmp_path / "foreign", 2, tmp_path / "else", seed=8),
        train(tmp_path / "b" / "own", 2, train(tmp_path / "slow", 4, **slow), seed=9),
    ]
    for other in others:
        with pytest.raises(ModelError, match="is a run of another recipe or length"):
            staging.stage(own, own, repeats=[other])


def test_batches_of_all_runs_are_told(runs, tmp_path):
    own = train(tmp_path / "own", 2, runs / "first", training={"batch_size": 64})
    staging.stage(own, own)
    assert "6 steps of 32 and 64 rows (256 rows seen)" in (own / layout.CARD).read_text()


def test_another_seed_of_the_last_run_is_told_with_all_before(runs, tmp_path):
    own = train(tmp_path / "own", 2, runs / "first")
    again = train(tmp_path / "again", 2, runs / "first", seed=5)
    staging.stage(own, own, repeats=[again])
    text = (own / layout.CARD).read_text()
    assert "In its last run trained again with other seeds the recipe comes to" in text
    line = "recipe.yaml --init-from runs/own-1 --seed 5 --out runs/again\n"
    assert f"--out runs/own-1\nimpflow-zoo train hub_configs/own/{line}" in text


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
    with pytest.raises(ModelError, match=r"log.jsonl is damaged: unknown config key 'hours'"):
        facts(tmp_path)
