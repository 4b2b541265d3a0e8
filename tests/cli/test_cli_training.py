"""The commands that train and stage: what they print, write and refuse."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import numpy
import pandas
import pytest
import torch
from safetensors.torch import load_file
from support.small_models import CARD as WORDS
from support.small_models import write_recipe

from impflow_zoo.data import open_toy
from impflow_zoo.models.filenames import (
    CARD,
    CHECKPOINT,
    CONFIG,
    CURVE,
    GOLDEN,
    LOG,
    PICTURE,
    RECIPE,
    RESULTS,
    SCORES,
    TEST_ROWS,
    TRAINING,
    WEIGHTS,
)
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.numerics import allocator
from impflow_zoo.training.facts import TrainingFacts
from impflow_zoo.zoo.record import Record

PNG = b"\x89PNG\r\n\x1a\n"


def test_train_then_resume_then_start_from_it(run, tmp_path):
    recipe = write_recipe(tmp_path / "recipe", training={"validate_every": 2})
    first = run("train", recipe, "--out", tmp_path / "a", "--max-minutes", 0, "--json").json
    assert (first["step"], first["best"]) == (1, None)
    second = run("train", recipe, "--out", tmp_path / "a", "--resume")
    assert second.code == 0, second.err
    assert second.out.startswith("step 4, best validation -")
    assert {CHECKPOINT, LOG, WEIGHTS, CONFIG, RECIPE} <= {
        path.name for path in (tmp_path / "a").iterdir()
    }
    third = run("train", recipe, "--out", tmp_path / "b", "--init-from", tmp_path / "a", "--json")
    assert third.json["step"] == 4


def test_a_dry_run_takes_two_steps_and_leaves_nothing(run, tmp_path):
    recipe = write_recipe(tmp_path / "recipe")
    before = sorted(tmp_path.rglob("*"))
    said = run("train", recipe, "--out", tmp_path / "a", "--dry-run")
    assert said.code == 0, said.err
    assert said.out.startswith("dry run, nothing was kept: step 2, ")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_of_the_zoo_is_trained_by_its_name(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run("train", "linear-power-plant-given-weather", "--data", "rows.csv", "--dry-run")
    assert "rows.csv" in said.err, "its recipe was read"
    said = run("train", "linear-power-plant-given-wether")
    assert "did you mean linear-power-plant-given-weather" in said.err


def write_table(folder: Path, rows: list[str], header: str = "a,b") -> Path:
    """A table of 60 points of a toy and a few more rows."""
    points = open_toy("moons", 60).rows(range(60)).tolist()
    tail = "," * (header.count(",") - 1)
    path = folder / "own.csv"
    path.write_text("\n".join([header, *(f"{x},{y}{tail}" for x, y in points), *rows]))
    return path


@pytest.mark.filterwarnings("default:decoding the latents")  # far out float32 loses digits
def test_an_absurd_value_is_trained_on_only_if_asked(run, tmp_path):
    recipe = write_recipe(tmp_path / "recipe", data={"dataset": None, "validation_rows": 10})
    table = write_table(tmp_path, ["0.5,1e9", "0,0"])
    out = tmp_path / "run"
    words = ["train", recipe, "--out", out, "--data", table]
    refused = run(*words)
    assert refused.code == 2
    assert "row 60, column 'b' is 1e+09, " in refused.err
    assert "--accept-outliers" in refused.err
    assert refused.err.count("\n") == 1
    assert not out.exists()
    done = run(*words, "--accept-outliers")
    assert done.code == 0, done.err
    assert run("evaluate", out, "--dataset", table, "--json").json["n"] == 62


@pytest.mark.filterwarnings("default::impflow_zoo.data.LeftOutWarning")
def test_columns_that_are_not_used_are_named(run, tmp_path):
    data = {"dataset": None, "validation_rows": 10}
    recipe = write_recipe(tmp_path / "two", data=data)
    table = write_table(tmp_path, ["0,0,x,y"], header="a,b,c,note")
    done = run("train", recipe, "--out", tmp_path / "run", "--data", table)
    assert done.code == 0, done.err
    (line,) = [line for line in done.err.splitlines() if "not used" in line]
    assert line.startswith("impflow-zoo: ")
    assert re.search("'c' .*row 60 .*'x', 'note' .*row 60 .*'y'", line)
    recipe = write_recipe(tmp_path / "three", config={"features": 3}, data=data)
    refused = run("train", recipe, "--out", tmp_path / "other", "--data", table)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "the model takes [3]; not used: 'c' " in refused.err


BLOCKS = """
import ctypes, sys, torch
from impflow_zoo.numerics.allocator import keep_memory

class Info(ctypes.Structure):
    _fields_ = [(f"field_{i}", ctypes.c_int) for i in range(10)]

mallinfo = ctypes.CDLL(None).mallinfo
mallinfo.restype = Info
if sys.argv[1] == "keep":
    keep_memory()
before = mallinfo().field_3  # blocks that come from the kernel and go back to it
x = torch.ones(30_000_000)
print(mallinfo().field_3 - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize(
    ("how", "blocks"), [("keep", 0), pytest.param("leave", 1, marks=pytest.mark.slow)]
)
def test_large_tensors_are_not_handed_back_to_the_kernel(how, blocks):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS, how],
        env={k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == blocks


def test_every_command_keeps_memory(run, monkeypatch):
    calls = []
    monkeypatch.setattr(allocator, "keep_memory", lambda: calls.append(None))
    assert run("list").code == 0
    assert len(calls) == 1


def test_training_that_was_not_validated_says_so(run, tmp_path):
    outcome = run("train", write_recipe(tmp_path), "--out", tmp_path / "run", "--max-minutes", 0)
    assert "step 1, no validation yet" in outcome.out
    assert "stopped by the clock, --resume goes on: the run is in " in outcome.out


@pytest.mark.filterwarnings("ignore:validation failed")
def test_training_that_left_no_model_is_a_failure(run, tmp_path):
    recipe = write_recipe(tmp_path, config={"solver": {"max_steps": 1}})
    outcome = run("train", recipe, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "validations succeeded, so no model was written" in outcome.err.splitlines()[-1]


def test_stage_brings_a_run_into_its_folder(run, tmp_path):
    folder = tmp_path / "flow"
    recipe = write_recipe(folder, training={"validate_every": 2})
    assert run("train", recipe, "--out", tmp_path / "run", "--data", "toy:moons").code == 0
    staged = run("stage", folder, "--run", tmp_path / "run", "--json").json
    names = {path.name for path in folder.iterdir()}
    assert names == {
        CONFIG,
        WEIGHTS,
        GOLDEN,
        RECIPE,
        CARD,
        PICTURE,
        CURVE,
        TRAINING,
        RESULTS,
        SCORES,
    }
    for picture in (PICTURE, CURVE):
        assert (folder / picture).read_bytes().startswith(PNG)
    values = load_file(folder / SCORES)["metric"]
    assert float(values.mean()) == pytest.approx(staged["value"], abs=1e-6)
    assert len(values) == staged["n"]
    again = run("evaluate", folder, "--json").json
    assert again["published"] == pytest.approx(again["value"], abs=1e-5)
    assert again["value"] == pytest.approx(staged["value"])
    card = (folder / CARD).read_text()
    assert f"{staged['value']:.3f}" in card
    assert json.loads((folder / TRAINING).read_text())["steps"] == 4
    again = run("stage", folder)  # weights kept, card made anew
    assert again.code == 0
    assert "names no licence of the weights" in again.out
    write_recipe(folder, training={"validate_every": 2}, card={**WORDS, "license": "mit"})
    again = run("stage", folder)
    assert (again.code, "licence" in again.out) == (0, False)


def test_a_single_file_is_the_test_split_whatever_its_name(run, tmp_path):
    folder = tmp_path / "flow"
    recipe = write_recipe(folder, training={"validate_every": 2})
    assert run("train", recipe, "--out", tmp_path / "run").code == 0
    (tmp_path / "held-out.csv").write_text("x,y\n0.5,0\n1,0.5\n1.5,-0.5\n")
    staged = run("stage", folder, "--run", tmp_path / "run", "--data", tmp_path / "held-out.csv")
    assert staged.code == 0, staged.err
    assert Record(ModelFolder(folder)).entry.n == 3


def test_a_folder_without_a_recipe_is_told_where_to_take_it_from(run, tmp_path):
    staged = run("stage", tmp_path / "own", "--run", tmp_path / "run")
    assert staged.code == 2
    assert f"{tmp_path / 'own'} has no recipe.yaml: copy {tmp_path / 'run'}" in staged.err


STAGED_AND_KILLED = """
import os, signal, sys
from pathlib import Path
from impflow_zoo.zoo import staging

def end(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

staging.pictures.draw_curves = end  # weights, figures and a picture are made by then
staging.stage(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_folder_is_as_it_was_if_staging_is_killed_and_can_be_staged_again(run, tmp_path):
    recipe = write_recipe(tmp_path / "flow", training={"validate_every": 2})
    for seed in range(2):
        options = ("--out", tmp_path / f"run-{seed}", "--seed", seed)
        assert run("train", recipe, *options).code == 0
    assert run("stage", tmp_path / "flow", "--run", tmp_path / "run-0").code == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "flow").iterdir()}
    killed = subprocess.run(
        [sys.executable, "-c", STAGED_AND_KILLED, tmp_path / "run-1", tmp_path / "flow"],
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {p.name: p.read_bytes() for p in (tmp_path / "flow").iterdir()} == before
    assert run("stage", tmp_path / "flow", "--run", tmp_path / "run-1").code == 0
    own, trained = (tmp_path / name / WEIGHTS for name in ("flow", "run-1"))
    assert own.read_bytes() == trained.read_bytes()


def test_other_seeds_are_scored_beside_the_staged_one(run, tmp_path):
    folder = tmp_path / "flow"
    recipe = write_recipe(folder, training={"validate_every": 2})
    for seed in range(3):
        options = ("--out", tmp_path / f"run-{seed}", "--seed", seed)
        assert run("train", recipe, *options, "--max-minutes", 5).code == 0
    first = ("--run", tmp_path / "run-0", "--repeat", tmp_path / "run-2")
    assert run("stage", folder, *first).code == 0
    staged = run("stage", folder, "--repeat", tmp_path / "run-1", "--json").json  # keeps the other
    facts = TrainingFacts.read(folder)
    assert (facts.seed, [repeat.seed for repeat in facts.repeats]) == (0, [1, 2])
    values = [staged["value"], *(repeat.value for repeat in facts.repeats)]
    assert len(set(values)) == 3
    for i, value in enumerate(values):
        options = ("--dataset", "toy:moons", "--split", "test", "--json")
        scored = run("evaluate", tmp_path / f"run-{i}", *options).json
        assert scored["value"] == pytest.approx(value)
    mean, deviation, _ = Record(ModelFolder(folder)).over_seeds
    assert (mean, deviation) == pytest.approx((statistics.mean(values), statistics.stdev(values)))
    assert run("stage", folder).code == 0
    card = (folder / CARD).read_text()
    assert f"over 3 runs the mean is {mean:.3f} and" in card
    assert f"the standard deviation {deviation:.3f}" in card
    assert "impflow-zoo train ./flow/recipe.yaml --seed 1 --out runs/again" in card
    assert "impflow-zoo evaluate runs/again --dataset toy:moons --split test" in card
    refused = run("stage", folder, "--data", "toy:rings")
    assert "not known to be scored on" in refused.err
    assert (folder / CARD).read_text() == card


def test_other_seeds_are_scored_on_the_rows_that_ship_with_a_model(run, tmp_path):
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path / "flow"
    recipe = write_recipe(folder, training={"validate_every": 2})
    shipped = {"x": [0.5, 1.0, 1.5, 0.0], "y": [0.0, 0.5, -0.5, 1.0]}
    pyarrow.parquet.write_table(pyarrow.table(shipped), folder / TEST_ROWS)
    for seed in range(2):
        assert run("train", recipe, "--out", tmp_path / f"run-{seed}", "--seed", seed).code == 0
    options = ("--run", tmp_path / "run-0", "--repeat", tmp_path / "run-1", "--json")
    assert run("stage", folder, *options).json["n"] == 4
    (repeat,) = TrainingFacts.read(folder).repeats
    rows = ("--dataset", folder / TEST_ROWS, "--json")
    assert run("evaluate", tmp_path / "run-1", *rows).json["value"] == pytest.approx(repeat.value)
    shipped["x"][0] = 0.6
    pyarrow.parquet.write_table(pyarrow.table(shipped), tmp_path / "other.parquet")
    refused = run("stage", folder, "--data", tmp_path / "other.parquet")
    assert "ships test.parquet with other rows" in refused.err


def test_rows_of_the_training_are_no_test_rows(run, tmp_path):
    """Also where the rows that it validated on follow them, as in the file given to `train`."""
    data = {"dataset": None, "validation_rows": 10}
    recipe = write_recipe(tmp_path / "flow", config={"columns": ["x", "y"]}, data=data)
    own, fresh = tmp_path / "own.csv", tmp_path / "fresh.csv"
    rows = numpy.random.default_rng(0).normal(size=(80, 2)).round(3)
    for file, part in ((own, rows[:60]), (fresh, rows[60:])):
        pandas.DataFrame(part, columns=["x", "y"]).to_csv(file, index=False)
    assert run("train", recipe, "--data", own, "--out", tmp_path / "run").code == 0
    words = ("stage", tmp_path / "run", "--data")
    refused = run(*words, own)
    assert (refused.code, "was trained on rows of" in refused.err) == (2, True), refused.err
    assert run(*words, fresh).code == 0


def test_repeats_that_are_none_are_refused(run, tmp_path):
    folder = tmp_path / "flow"
    recipe = write_recipe(folder, training={"validate_every": 2})
    for seed in range(2):
        run("train", recipe, "--out", tmp_path / f"run-{seed}", "--seed", seed)
    assert run("stage", folder, "--run", tmp_path / "run-0").code == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = {"config": {"lipschitz": 0.5}, "rate": {"learning_rate": 0.5}, "length": {"steps": 2}}
    for i, (name, change) in enumerate(other.items(), start=2):
        section = {"config": change} if name == "config" else {"training": change}
        section["training"] = {"validate_every": 2, **section.get("training", {})}
        path = write_recipe(tmp_path / name, **section)
        assert run("train", path, "--out", tmp_path / name / "run", "--seed", i).code == 0
    mistakes = {
        ("run-1",): "has seed 1 like another run",
        ("run-0", "run-0"): "has seed 0 like another run",
        ("nowhere",): "is not the folder of a run",
        **{(f"{name}/run",): "has another recipe or length" for name in other},
    }
    for names, message in mistakes.items():
        repeats = [part for name in names for part in ("--repeat", tmp_path / name)]
        outcome = run("stage", folder, "--run", tmp_path / "run-1", *repeats)
        assert (outcome.code, message in outcome.err) == (2, True), outcome.err
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_repeats_of_an_ensemble_have_no_training_in_common(run, tmp_path):
    recipe = write_recipe(tmp_path / "flow", training={"validate_every": 2})
    recipe.write_text("ensemble: 2\n" + recipe.read_text())
    for seed in range(3):
        out = tmp_path / f"run-{seed}"
        assert run("train", recipe, "--out", out, "--seed", seed).code == 0
    words = ("stage", tmp_path / "flow", "--run", tmp_path / "run-0", "--repeat")
    refused = run(*words, tmp_path / "run-1")
    assert (refused.code, "in common with the run of seed 0" in refused.err) == (2, True)
    assert run(*words, tmp_path / "run-2").code == 0


def test_what_cannot_be_scored_is_not_staged(run, tmp_path):
    folder = tmp_path / "flow"
    recipe = write_recipe(folder, training={"validate_every": 2})
    run("train", recipe, "--out", tmp_path / "run")
    before = {path.name for path in folder.iterdir()}
    assert run("stage", folder, "--run", tmp_path / "run", "--data", tmp_path / "none").code == 2
    assert {path.name for path in folder.iterdir()} == before
    write_recipe(folder, config={"lipschitz": 0.5})
    other = run("stage", folder, "--run", tmp_path / "run")
    assert (other.code, "another recipe than the folder's (config.lip" in other.err) == (2, True)
    (tmp_path / "run" / RECIPE).unlink()  # as runs of other programs may have none
    other = run("stage", folder, "--run", tmp_path / "run")
    assert (other.code, "belong to another model than the recipe" in other.err) == (2, True)
    assert {path.name for path in folder.iterdir()} == before


def test_a_card_needs_its_words(run, tmp_path):
    recipe = write_recipe(tmp_path / "flow", card={"summary": "A test."})
    assert run("train", recipe, "--out", tmp_path / "run").code == 0
    staged = run("stage", tmp_path / "flow", "--run", tmp_path / "run")
    assert staged.code == 2
    assert "card.data_name, card.data_license missing: write these texts" in staged.err
    assert [path.name for path in (tmp_path / "flow").iterdir()] == [RECIPE]


def test_the_seed_of_a_run_is_on_its_card_and_in_its_recipe(run, tmp_path):
    folder = tmp_path / "flow"
    recipe = write_recipe(folder, training={"validate_every": 2})
    assert run("train", recipe, "--out", tmp_path / "run", "--seed", 5).code == 0
    assert run("stage", folder, "--run", tmp_path / "run").code == 0
    assert "./flow/recipe.yaml --seed 5" in (folder / CARD).read_text()
    again = run("train", tmp_path / "run" / RECIPE, "--out", tmp_path / "again")
    assert again.code == 0
    weights = [load_file(tmp_path / name / WEIGHTS) for name in ("run", "again")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_run_goes_on_with_its_own_seed(run, tmp_path):
    options = (write_recipe(tmp_path), "--out", tmp_path / "run")
    assert run("train", *options, "--seed", 7, "--max-minutes", 0).code == 0
    other = run("train", *options, "--resume")
    assert other.code == 2
    assert "started with seed 7, not 0" in other.err
    assert run("train", *options, "--resume", "--seed", 7, "--json").json["step"] == 4


def test_stage_without_weights_asks_for_a_run(run, tmp_path):
    folder = write_recipe(tmp_path / "bare").parent
    staged = run("stage", folder)
    assert staged.code == 2
    assert "has no weights: stage it from" in staged.err
    assert [path.name for path in folder.iterdir()] == [RECIPE]
