"""What a run says of itself: while it trains, and when it has ended."""

from __future__ import annotations

import pytest
from support.small_models import write_recipe

from impflow_zoo.training.summary import course, reason


@pytest.mark.parametrize(
    ("best_step", "validated", "words"),
    [
        (100, 100, "validation still improved at the end"),
        (90, 100, "validation has levelled off"),
        (0, 100, "no validation was better than the best of an earlier stage"),
        (30, 100, "validation was best at step 30 of 100 and got worse: overfitted"),
    ],
)
def test_the_course_of_validations_in_words(best_step, validated, words):
    assert course(best_step, validated).startswith(words)


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        ("steps", "all steps are done"),
        ("patience", "stopped after 3 validations in a row without a gain"),
        ("time", "stopped by the clock, --resume goes on"),
        ("", "it had ended before"),
    ],
)
def test_why_a_run_has_ended(ended, words):
    assert reason({"ended": ended, "waited": 3}) == words


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
    what, why, where = done.out.splitlines()
    assert " CPU minutes, " in what
    assert why.startswith("all steps are done; validation ")
    assert where.startswith(f"the model is in {tmp_path / 'run'}: impflow-zoo evaluate ")


def test_a_run_that_the_clock_stopped_says_nothing_of_its_course(run, tmp_path):
    settings = {"steps": 50, "validate_every": 1}
    recipe = write_recipe(tmp_path / "recipe", training=settings)
    done = run("train", recipe, "--out", tmp_path / "run", "--max-minutes", "0")
    assert done.out.splitlines()[1] == "stopped by the clock, --resume goes on"


def test_a_run_that_lost_patience_says_so(run, tmp_path):
    settings = {"steps": 50, "validate_every": 1, "patience": 2, "learning_rate": 1.0}
    recipe = write_recipe(tmp_path / "recipe", training=settings)
    done = run("train", recipe, "--out", tmp_path / "run", "--json").json
    assert (done["ended"], done["waited"]) == ("patience", 2)
    again = run("train", recipe, "--out", tmp_path / "run", "--resume")
    assert "it had ended before" in again.out
