"""The commands `fit` and `init`: what they print, write and refuse."""

from __future__ import annotations

import shlex

import numpy
import pandas
import pytest
from support.fits import ENTRANTS
from support.small_models import write_recipe

from impflow_zoo import create_model
from impflow_zoo.fitting import run as running
from impflow_zoo.fitting.budget import Plan
from impflow_zoo.training.recipe import read_recipe


@pytest.fixture
def table(tmp_path):
    """A file with columns of several kinds."""
    random = numpy.random.default_rng(0)
    a, b = random.normal(size=(2, 300))
    frame = pandas.DataFrame({"id": range(300), "a": a, "b": numpy.round(a + b, 1), "name": "x"})
    frame["c"] = numpy.where(random.random(300) < 0.02, numpy.nan, random.random(300))
    frame.to_csv(tmp_path / "own.csv", index=False)
    return tmp_path / "own.csv"


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(running, "candidates", lambda findings: list(ENTRANTS[:2]))
    monkeypatch.setattr(running, "plan", lambda *_: Plan((2,), 0.1))


@pytest.mark.usefixtures("_small")
def test_fit_says_what_it_finds_tries_and_leaves(run, table, tmp_path):
    out = tmp_path / "fit"
    done = run("fit", table, "--out", out, "--minutes", 0.02)
    assert done.code == 0, done.err
    assert "left out: 'id' numbers the rows" in done.err
    assert "rounded to 0.1: b" in done.err
    assert "round 1: implicit, " in done.err
    assert "tried" in done.out.splitlines()[0]
    assert f"impflow-zoo certify {out}" in done.out
    assert run("evaluate", out, "--json").json["n"] == 29
    assert run("sample", out, "-n", 3, "--out", tmp_path / "s.csv").code == 0
    assert run("certify", out).code == 0
    again = run("fit", table, "--out", out, "--minutes", 0.02)
    assert (again.code, "--resume it" in again.err) == (2, True)
    resumed = run("fit", table, "--out", out, "--minutes", 0.02, "--resume", "--json").json
    assert resumed["tried"][0]["name"] == "implicit"
    assert resumed["left_out"]["name"].startswith("is not numeric")


@pytest.mark.usefixtures("_small")
def test_columns_may_be_named(run, table, tmp_path):
    words = ("fit", table, "--out", tmp_path / "fit", "--minutes", 0.01, "--columns")
    assert "columns: c, a\n" in run(*words, "c,a").err
    assert "--columns c,a" in (tmp_path / "fit" / "README.md").read_text()
    other = run(*words, "a,c", "--resume")
    assert (other.code, "was begun with columns ['c', 'a'], not" in other.err) == (2, True)
    recipe = tmp_path / "recipe.yaml"
    assert run("init", table, "--out", recipe, "--columns", "a,c").code == 0
    assert read_recipe(recipe).config.columns == ("a", "c")


@pytest.mark.usefixtures("_small")
def test_bounds_and_periods_that_are_stated_hold_for_all_models(run, table, tmp_path):
    words = ("--bounds", "c=0:1", "--periodic", "b=6.5")
    done = run("fit", table, "--out", tmp_path / "fit", "--minutes", 0.02, *words)
    assert done.code == 0, done.err
    assert "you may give" not in done.err
    for recipe in (tmp_path / "fit").glob("tried/*/recipe.yaml"):
        config = read_recipe(recipe).config
        assert (config.bounds, config.periodic) == ({"c": (0.0, 1.0)}, {"b": 6.5})
    samples = create_model(tmp_path / "fit").sample(200, as_frame=True)
    assert samples["c"].between(0, 1).all()
    assert samples["b"].between(0, 6.5).all()
    card = (tmp_path / "fit" / "README.md").read_text()
    assert f"impflow-zoo fit {table} --out" in card
    assert "--bounds c=0:1 --periodic b=6.5" in card
    again = ("--resume", "--bounds", "c=0:2")
    other = run("fit", table, "--out", tmp_path / "fit", "--minutes", 0.02, *again)
    assert "was begun with other bounds or periods" in other.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--periodic", "bb=6"), "periodic: there is no column 'bb'"),
        (("--periodic", "b"), "--periodic: 'b' has no value"),
        (("--bounds", "c=1"), "--bounds: c=1: LOW:HIGH is needed"),
        (("--bounds", "c=0:0.5"), "c is not within its bounds, 0 and 0.5"),
        (("--bounds", "c=0:x"), "--bounds: c='x' is not a number"),
        (("--minutes", "0"), "Invalid value for '--minutes'"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(run, table, tmp_path, words, message):
    done = run("fit", table, "--out", tmp_path / "fit", *words)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "fit").exists()


def test_init_writes_a_recipe_that_trains(run, table, tmp_path):
    recipe = tmp_path / "first.yaml"
    done = run("init", table, "--out", recipe, "--given", "a")
    assert done.code == 0, done.err
    text = recipe.read_text()
    assert "left out: 'name' is not numeric, row 0 holds 'x'" in done.out
    assert "# left out: 'name' is not numeric\n" in text  # cells are nobody's business
    assert "  # all values are within these ends:\n  # bounds:\n  #   c: [0.0, 1.0]\n" in text
    assert "rounding: {b: 0.1}" in text
    first, following = done.out.splitlines()[-2:]
    assert first.startswith("first: drop the rows with missing values")
    assert following.startswith(f"next: impflow-zoo train {recipe} --data {table}")
    whole = tmp_path / "whole.csv"
    pandas.read_csv(table).dropna().to_csv(whole, index=False)
    trained = run("train", recipe, "--data", whole, "--dry-run")
    assert trained.code == 0, trained.err
    refused = run("init", table, "--out", recipe)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "exists: choose another --out" in refused.err


def test_the_next_command_may_be_copied_whatever_a_file_is_called(run, table, tmp_path):
    named = table.rename(tmp_path / "my $(touch hacked) rows.csv")
    recipe = tmp_path / "a recipe" / "recipe.yaml"
    recipe.parent.mkdir()
    _, _, command = run("init", named, "--out", recipe).out.partition("next: ")
    words = shlex.split(command)
    assert words[2:6] == [str(recipe), "--data", str(named), "--out"]
    assert words[6] == "runs/my $(touch hacked) rows"
    out = tmp_path / "a run"
    short = write_recipe(tmp_path / "short")
    _, _, command = run("train", short, "--out", out).out.partition(f"{out}: ")
    assert shlex.split(command)[:3] == ["impflow-zoo", "evaluate", str(out)]


def test_a_line_break_in_a_name_ends_no_comment(run, tmp_path):
    frame = pandas.DataFrame(numpy.random.default_rng(0).random((50, 2)), columns=["a\nb: 1", "c"])
    frame.to_csv(tmp_path / "own.csv", index=False)
    recipe = tmp_path / "recipe.yaml"
    assert run("init", tmp_path / "own.csv", "--out", recipe).code == 0
    assert read_recipe(recipe).config.columns == ("a\nb: 1", "c")


@pytest.mark.usefixtures("_small")
def test_rows_of_a_fit_are_no_test_rows(run, tmp_path):
    """Also where they stand in another order than `fit` has trained on them."""
    rows = numpy.random.default_rng(0).normal(size=(130, 2)).round(3)
    own, fresh, out = tmp_path / "own.csv", tmp_path / "fresh.csv", tmp_path / "fit"
    for file, part in ((own, rows[:100]), (fresh, rows[100:])):
        pandas.DataFrame(part, columns=["x", "y"]).to_csv(file, index=False)
    assert run("fit", own, "--out", out, "--minutes", 0.02).code == 0
    (out / "test.parquet").unlink()
    for seen in (own, out / "data" / "train.parquet"):
        refused = run("stage", out, "--data", seen)
        assert (refused.code, "was trained on rows of" in refused.err) == (2, True), refused.err
    staged = run("stage", out, "--data", fresh)
    assert staged.code == 0, staged.err
