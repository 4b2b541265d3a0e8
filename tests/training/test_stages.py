"""Recipes with stages: each starts from the weights that the one before has kept."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.forks import Forked
from support.small_models import CARD, make, write_recipe

from impflow_zoo import ImpFlow, training
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.filenames import CHECKPOINT, LOG, RECIPE, WEIGHTS
from impflow_zoo.training.facts import Part, TrainingFacts
from impflow_zoo.training.recipe import fingerprint, read_recipe, with_seed
from impflow_zoo.zoo import staging

STAGES: list[dict[str, object]] = [
    {"steps": 4},
    {"steps": 3, "learning_rate": 5e-4},
    {"steps": 2, "batch_size": 64},
]


def write(folder: Path, stages: list[dict[str, object]] | None = None, **shared: object) -> Path:
    """A recipe with stages, validated every second step."""
    words = {**CARD, "data_citation": "Made by this package."}
    path = write_recipe(folder, training={"validate_every": 2, **shared}, card=words)
    if stages is not None:
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "stages": stages}))
    return path


def train(recipe: Path, out: Path, **options: Any) -> dict[str, Any]:
    return training.train(recipe, out=out, progress=False, **options)


def assert_same_weights(one: Path, other: Path, name: str = WEIGHTS) -> None:
    own, expected = load_file(one / name), load_file(other / name)
    assert own.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in own.items())


def timeless(facts: TrainingFacts) -> Any:
    parts = [(part.steps, part.rows_seen) for part in facts.parts]
    return facts.steps, facts.rows_seen, facts.seed, parts, [(r, v) for r, _, v in facts.curve]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Path]:
    """A recipe of three stages and the folder of its whole run."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = write(folder / "recipe", STAGES)
    train(recipe, folder / "run")
    return recipe, folder / "run"


def test_settings_of_stages_are_those_of_all_but_for_their_own(whole):
    recipe = read_recipe(whole[0])
    assert [s.steps for s in recipe.runs] == [4, 3, 2]
    assert [s.seed for s in recipe.runs] == [0, 1, 2]
    assert [s.learning_rate for s in recipe.runs] == [1e-3, 5e-4, 1e-3]
    assert [s.seed for s in recipe.with_seed(7).runs] == [7, 8, 9]
    assert fingerprint(recipe) == fingerprint(recipe.with_seed(7))


def test_stages_validate_on_the_same_rows(tmp_path):
    """Else the best of a stage on 10 rows would hide all values of the next on 50."""
    recipe = write(tmp_path / "recipe", [{"steps": 4, "validation_limit": 10}, {"steps": 3}])
    with pytest.raises(ConfigError, match="values on other rows cannot be compared"):
        read_recipe(recipe)


def test_another_seed_moves_the_seeds_that_stages_name(tmp_path):
    recipe = write(tmp_path / "recipe", [{"steps": 4}, {"steps": 3, "seed": 9}])
    moved = tmp_path / "moved.yaml"
    moved.write_bytes(with_seed(recipe.read_bytes(), 7))
    assert [s.seed for s in read_recipe(moved).runs] == [7, 16]
    assert read_recipe(moved) == read_recipe(recipe).with_seed(7)


def test_stages_are_runs_from_the_weights_of_the_one_before(whole, tmp_path):
    start: dict[str, str] = {}
    for number, stage in enumerate(STAGES):
        recipe = write(tmp_path / f"recipe-{number}", seed=number, **stage)
        train(recipe, tmp_path / f"run-{number}", **start)
        start = {"init_from": str(tmp_path / f"run-{number}")}
    assert_same_weights(whole[1], tmp_path / "run-2")


def test_facts_count_all_stages(whole):
    facts = TrainingFacts.read(whole[1])
    assert (facts.steps, facts.rows_seen, facts.seed) == (9, 4 * 32 + 3 * 32 + 2 * 64, 0)
    assert [part.steps for part in facts.parts] == [4, 3, 2]
    assert facts.batches == [32, 32, 64]
    assert [rows for rows, *_ in facts.curve] == [64, 128, 192, 224, 352]
    seconds = [s for _, s, _ in facts.curve]
    assert seconds == sorted(seconds)
    assert isinstance(facts.parts[0], Part)
    logs = sorted(path.name for path in whole[1].glob("log*.jsonl"))
    assert logs == ["log-1.jsonl", "log-2.jsonl", "log.jsonl"]


def test_training_on_is_a_stage_more(whole, tmp_path):
    recipe, run = whole
    first = write(tmp_path / "recipe", **STAGES[0])
    train(first, tmp_path / "run")
    first.write_text(recipe.read_text())
    train(first, tmp_path / "run", resume=True)
    assert_same_weights(tmp_path / "run", run)
    assert timeless(TrainingFacts.read(tmp_path / "run")) == timeless(TrainingFacts.read(run))
    assert (tmp_path / "run" / RECIPE).read_text() == recipe.read_text()


@pytest.mark.parametrize(
    ("stages", "changed"),
    [(STAGES[:2], "stages"), ([{"steps": 5}, *STAGES[1:]], r"stages\[0\].steps")],
    ids=["fewer", "others"],
)
def test_stages_that_were_trained_stay(stages, changed, whole, tmp_path):
    other = write(tmp_path, stages)
    with pytest.raises(ModelError, match=rf"was trained with another recipe \({changed}\)"):
        train(other, whole[1], resume=True)


KILLED = """
import os, signal, sys
import torch
from impflow_zoo import training
from impflow_zoo.training.trainer import Trainer

def end(self, *arguments, **options):
    if self.state["stage"] == 1 and ("{moment}" != "step" or self.state["step"] == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, *arguments, **options)

whole, Trainer.{moment} = Trainer.{moment}, end
torch.set_num_threads(int(sys.argv[3]))
training.train(sys.argv[1], out=sys.argv[2], progress=False)
"""


@pytest.mark.parametrize(
    "moment",
    [
        "go_on",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("checkpoint", "step", "validate")),
    ],
)
def test_a_run_that_is_killed_in_a_stage_goes_on_as_if_nothing_had_happened(
    moment, whole, tmp_path
):
    recipe, run = whole
    arguments = [recipe, tmp_path, torch.get_num_threads()]
    code = KILLED.format(moment=moment)
    ended = Forked("-c", code, *arguments).ended()
    assert ended.returncode == -signal.SIGKILL
    train(recipe, tmp_path, resume=True)
    for name in (WEIGHTS, CHECKPOINT):
        assert_same_weights(tmp_path, run, name)
    assert timeless(TrainingFacts.read(tmp_path)) == timeless(TrainingFacts.read(run))


def test_time_ends_a_run_between_stages(whole, tmp_path):
    recipe, run = whole
    for _ in range(12):
        state = train(recipe, tmp_path, max_minutes=0.0, resume=(tmp_path / "log.jsonl").exists())
        if (state["stage"], state["step"]) == (2, 2):
            break
    assert_same_weights(tmp_path, run)


def test_a_card_tells_of_stages(whole, tmp_path):
    folder = tmp_path / "flow"
    folder.mkdir()
    shutil.copy(whole[0], folder)
    staging.stage(whole[1], folder)
    card = (folder / "README.md").read_text()
    assert "9 steps of 32 and 64 rows (352 rows seen)" in card
    assert "in 3 stages (4, 3 and 2 steps)" in card
    assert "\nimpflow-zoo train ./flow/recipe.yaml\n" in card


def test_a_card_is_not_made_from_a_recipe_that_was_changed_since(whole, tmp_path):
    folder = tmp_path / "flow"
    folder.mkdir()
    shutil.copy(whole[0], folder)
    staging.stage(whole[1], folder)
    write(folder, [*STAGES, {"steps": 1}])
    with pytest.raises(ModelError, match=r"flow/recipe.yaml was changed .*new run"):
        staging.stage(None, folder)


def test_a_card_names_the_model_it_started_from(tmp_path):
    torch.manual_seed(0)
    model = make(ImpFlow, blocks=1, hidden_features=(8,)).float()
    model.save_pretrained(tmp_path / "elsewhere")
    folder = tmp_path / "flow"
    recipe = write(folder, steps=2)
    train(recipe, tmp_path / "run", init_from=str(tmp_path / "elsewhere"))
    assert str(tmp_path) not in (tmp_path / "run" / LOG).read_text()
    staging.stage(tmp_path / "run", folder)
    card = (folder / "README.md").read_text()
    assert "starting from the weights of elsewhere: Adam" in card
    assert "recipe.yaml --init-from elsewhere\n" in card


def test_runs_from_other_weights_are_no_repeats(tmp_path):
    make(ImpFlow, blocks=1, hidden_features=(8,)).float().save_pretrained(tmp_path / "else")
    recipe = write(tmp_path / "flow", steps=2)
    train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "foreign", seed=8, init_from=str(tmp_path / "else"))
    with pytest.raises(ModelError, match="has another recipe or length"):
        staging.stage(tmp_path / "run", tmp_path / "flow", repeats=[tmp_path / "foreign"])


BAD = {
    "no list": ({"steps": 3}, "'stages' is .*: list expected"),
    "no settings": ([3], r"'stages\[0\]' is 3: settings by name"),
    "unknown": ([{}, {"step": 3}], r"unknown config key 'stages\[1\].step'.*'steps'"),
    "out of range": ([{"steps": 0}], "steps=0: at least 1"),
}


@pytest.mark.parametrize(("stages", "message"), BAD.values(), ids=BAD)
def test_a_bad_stage_is_named(stages, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read_recipe(write(tmp_path, stages))


def test_shares_of_roots_are_weighted_by_steps():
    cost: dict[str, Any] = {"rows_seen": 0, "minutes": 1.04, "skipped_steps": 2, "curve": ()}
    before = TrainingFacts(steps=10, hardware="a", unconverged_fraction=0.1, **cost)
    last = TrainingFacts(steps=30, hardware="b", unconverged_fraction=0.5, **cost)
    both = last.after(before)
    assert both.unconverged_fraction == pytest.approx(0.4)
    assert (both.skipped_steps, both.minutes, both.hardware) == (4, 2.1, "a and b")
    assert json.loads(both.text())["parts"][1]["hardware"] == "b"
    assert last.after(replace(before, hardware="a and b")).hardware == "a and b"


def test_a_stage_that_makes_a_model_worse_keeps_the_one_before(tmp_path):
    wild = {"steps": 3, "learning_rate": 30.0, "clip_norm": 1000.0, "warmup_steps": 0}
    recipe = write(tmp_path, [{"steps": 4}, {**wild, "validate_every": 1}])
    alone = write(tmp_path / "one", [{"steps": 4}])
    state, kept = train(recipe, tmp_path / "run"), train(alone, tmp_path / "alone")
    assert (state["stage"], state["best"], state["best_step"]) == (1, kept["best"], 0)
    assert_same_weights(tmp_path / "run", tmp_path / "alone")


def test_the_seed_to_go_on_with_is_that_of_the_recipe(tmp_path):
    recipe = write(tmp_path, [{"steps": 2}, {"steps": 2, "seed": 100}])
    train(recipe, tmp_path / "run", seed=5)
    with pytest.raises(ModelError, match="was started with seed 5, not 0"):
        train(recipe, tmp_path / "run", resume=True)


def test_a_recipe_without_the_stage_that_a_run_is_in(tmp_path):
    train(write(tmp_path, [{"steps": 2}, {"steps": 2}]), tmp_path / "run")
    (tmp_path / "run" / RECIPE).unlink()
    with pytest.raises(ModelError, match="run is in stage 1, .*recipe"):
        train(write(tmp_path / "one", [{"steps": 2}]), tmp_path / "run", resume=True)


def test_stages_that_are_one_object_in_the_file():
    text = b"stages: [&a {steps: 1, seed: 7}, *a]\n"
    assert [s["seed"] for s in yaml.safe_load(with_seed(text, 5))["stages"]] == [12, 12]


def test_a_validation_value_may_be_very_low(tmp_path):
    """An outlier, or a run that diverges, comes to numbers beyond those of integers."""
    facts = TrainingFacts(1, 1, 1.0, "a", 0, 0.0, ((1.0, 1.0, -1e30),))
    (tmp_path / "training.json").write_text(facts.text())
    assert TrainingFacts.read(tmp_path).curve == facts.curve
