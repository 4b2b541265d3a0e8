"""What a run says of itself: while it trains, and when it has ended."""

from __future__ import annotations

import re

import numpy
import pandas
import pytest
import torch
from support.small_models import write_recipe

from impflow_zoo.data import TableSource
from impflow_zoo.evaluation.baselines import gaussian
from impflow_zoo.training import train
from impflow_zoo.training.recipe import read_recipe
from impflow_zoo.training.summary import closing, course, reason


@pytest.mark.parametrize(
    ("best_step", "worse", "words"),
    [
        (100, 0.0, "validation still improved at the end"),
        (90, 0.5, "validation has levelled off"),
        (30, 0.001, "validation has levelled off"),
        (0, 0.5, "no validation was better than the best of an earlier stage"),
        (30, 0.5, "validation was best at step 30 of 100 and 0.5000 nats worse at the end"),
    ],
)
def test_the_course_of_validations_in_words(best_step, worse, words):
    assert course(best_step, 100, worse, "nats").startswith(words)


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        ("steps", "all steps are done"),
        ("patience", "3 validations in a row without"),
        ("time", "stopped by the clock, --resume goes on"),
        ("", "it had ended before"),
    ],
)
def test_why_a_run_has_ended(ended, words):
    assert words in reason({"ended": ended, "waited": 3})


def test_without_a_terminal_each_validation_is_a_line(run, tmp_path):
    settings = {"steps": 4, "validate_every": 2, "log_every": 1}
    config = {"metric": "bits"}
    recipe = write_recipe(tmp_path / "recipe", training=settings, config=config)
    done = run("train", recipe, "--out", tmp_path / "run")
    first, second = done.err.splitlines()
    assert first.startswith("step 2 of 4: train ")
    assert second.startswith("step 4 of 4: train ")
    assert second.endswith(" bits")
    assert ", validation " in second
    what, why, beside, where = done.out.splitlines()
    assert " CPU minutes, " in what
    assert why.startswith("all steps are done; validation ")
    assert re.fullmatch(
        r"a Gaussian .*: \d\.\d{4} bits; \d\.\d{4} (ahead of|behind) it",
        beside,
    )
    assert where.startswith(f"the model is in {tmp_path / 'run'}: impflow-zoo evaluate ")


def test_a_run_that_the_clock_stopped_says_nothing_of_its_course(run, tmp_path):
    settings = {"steps": 50, "validate_every": 1}
    recipe = write_recipe(tmp_path / "recipe", training=settings)
    done = run("train", recipe, "--out", tmp_path / "run", "--max-minutes", "0")
    assert done.out.splitlines()[1] == "stopped by the clock, --resume goes on"


def test_a_stage_without_a_finite_validation_has_an_end(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path / "recipe"))
    state = {"best": -1.0, "best_step": 0, "curve": [], "ended": "steps", "validated": 9}
    state |= {"step": 9, "skipped": 0, "cpu_seconds": 1.0, "seconds": 1.0, "gaussian": None}
    state |= {"waited": 9}
    value, text = closing(recipe, state, tmp_path)
    assert value == -1.0
    assert "no validation was better than the best of an earlier stage" in text


def test_a_run_that_lost_patience_says_so(run, tmp_path):
    settings = {"steps": 50, "validate_every": 1, "patience": 2, "learning_rate": 1.0}
    recipe = write_recipe(tmp_path / "recipe", training=settings)
    done = run("train", recipe, "--out", tmp_path / "run", "--json").json
    assert (done["ended"], done["waited"]) == ("patience", 2)
    again = run("train", recipe, "--out", tmp_path / "run", "--resume")
    assert "it had ended before" in again.out


RANDOM = numpy.random.default_rng(0)
ROWS = RANDOM.normal(size=(500, 2)) @ [[1.0, 0.8], [0.0, 0.6]]
HELD_OUT = {"dataset": None, "validation_rows": 100}


def trained(folder, config, rows, **settings):
    recipe = write_recipe(folder, config=config, data=HELD_OUT, training=settings)
    return train(recipe, data=rows, out=folder / "run", progress=False)


def expected(rows, columns, limit=100):
    """Nats of a Gaussian of the training rows on the first of the validation rows."""
    source = TableSource("rows", torch.from_numpy(rows), ("x0", "x1")).mixed()
    rows = source.rows(range(len(rows))).numpy()
    return gaussian(rows[:400], rows[400:][:limit], columns).validation


@pytest.mark.parametrize("limit", [100, 30])
def test_a_gaussian_is_fitted_to_the_training_rows(tmp_path, limit):
    state = trained(tmp_path, {}, ROWS, validation_limit=limit)
    assert state["gaussian"] == pytest.approx(expected(ROWS, 2, limit))


def test_given_contexts_it_is_a_linear_regression(tmp_path):
    names = {"features": 1, "columns": ["a"], "context_columns": ["b"]}
    frame = pandas.DataFrame(ROWS, columns=["a", "b"])
    state = trained(tmp_path, names, frame, validation_limit=100)
    assert state["gaussian"] == pytest.approx(expected(ROWS, 1))


def test_it_sees_the_noise_of_rounding(tmp_path):
    state = trained(tmp_path, {"rounding": [2.0, 0.0]}, ROWS.round(), validation_limit=100)
    noise = numpy.column_stack([RANDOM.uniform(-1, 1, 500), numpy.zeros(500)])
    assert state["gaussian"] == pytest.approx(expected(ROWS.round() + noise, 2), abs=0.15)
    assert state["gaussian"] < expected(ROWS.round(), 2) - 0.15


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        ({"columns": ["x0", "x1"], "periodic": {"x0": 9.0}}, ROWS),
        ({}, ROWS[:118]),
    ],
    ids=["an angle", "18 rows"],
)
def test_where_it_says_nothing_there_is_none(tmp_path, config, rows):
    assert trained(tmp_path, config, rows)["gaussian"] is None
