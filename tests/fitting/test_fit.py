"""`fit` finds a density: the same one for the same seed, also after a kill."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pandas
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.fits import ENTRANTS, small_fit
from support.forks import Forked

from impflow_zoo import Ensemble, create_model, evaluate, fit, training
from impflow_zoo.cli.options import between_commas
from impflow_zoo.data import DataError, open_toy
from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.fitting import StoppedFitError
from impflow_zoo.fitting import run as running
from impflow_zoo.fitting.budget import Plan
from impflow_zoo.fitting.card import card_words
from impflow_zoo.fitting.search import STATE, Search
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CARD, CURVE, PICTURE, RECIPE, WEIGHTS
from impflow_zoo.training import Trainer

QUICK = {"rounds": Plan(), "minutes": 0.003}  # one run of a few steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A fit that nothing has interrupted."""
    return small_fit(tmp_path_factory.mktemp("fits") / "whole")


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    """Pictures take a fifth of a small fit; the whole one has them."""
    monkeypatch.setattr(running, "_draw", lambda *_: None)


def timeless(folder: Path) -> list[dict]:
    """The runs of a search but for their times."""
    tried = json.loads((folder / STATE).read_text())["tried"]
    return [{k: v for k, v in one.items() if k != "cpu_minutes"} for one in tried]


def assert_same_fit(one: Path, other: Path) -> None:
    assert timeless(one) == timeless(other)
    weights = [load_file(folder / WEIGHTS) for folder in (one, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_search_has_rounds_and_trains_the_best(whole):
    assert [one.round for one in whole.tried] == [1, 1, 1, 2, 2, 3, 3, 0]
    first = sorted(whole.tried[:3], key=lambda one: -one.rank)
    assert [one.name for one in whole.tried[3:5]] == [one.name for one in first[:2]]
    second = max(whole.tried[3:5], key=lambda one: one.rank).name
    assert [one.name for one in whole.tried[5:7]] == [second, f"{second}-lighter"]
    assert whole.best.value == max(one.value for one in whole.tried)
    columns = ["name", "round", "steps", "validation", "cpu_minutes", "ended"]
    assert list(whole.table.columns) == columns
    assert whole.table["name"][8] == "Gaussian"
    assert {PICTURE, CURVE, RECIPE} <= {path.name for path in whole.folder.iterdir()}


def test_a_candidate_goes_on_from_where_it_was(whole):
    """Each run is a further stage of one training, whose recipe tells all of them."""
    folders = {path.name for path in (whole.folder / "tried").iterdir()}
    assert folders == {one.name for one in whole.tried}
    runs = [one for one in whole.tried if one.name == whole.tried[-1].name]
    recipe = yaml.safe_load((whole.folder / "tried" / runs[-1].name / RECIPE).read_text())
    steps = [stage.get("steps", recipe["training"]["steps"]) for stage in recipe["stages"]]
    assert steps[-len(runs) :] == [one.steps for one in runs]
    assert [one.value for one in runs] == sorted(one.value for one in runs)
    decays = [
        stage.get("weight_decay", recipe["training"]["weight_decay"]) for stage in recipe["stages"]
    ]
    light = runs[-1].name.endswith("-lighter")
    assert decays == [0.1, 0.1, *[pytest.approx(0.01 if light else 0.1)] * 2]


def test_a_leader_that_gains_much_by_more_steps_keeps_its_weight_decay(tmp_path, monkeypatch):
    monkeypatch.setattr("impflow_zoo.fitting.search._STEEP", 0.0)
    found = small_fit(tmp_path / "out")
    assert [one.round for one in found.tried] == [1, 1, 1, 2, 2, 3, 0]
    assert not list(found.folder.glob("tried/*-lighter"))
    assert small_fit(tmp_path / "out", resume=True).tried == found.tried


@pytest.mark.parametrize(("worse", "twin"), [(0.1, "heavier"), (0.001, "lighter")])
def test_a_leader_that_overfits_is_tried_with_more_weight_decay(worse, twin, tmp_path, monkeypatch):
    run = Search._one

    def one(self, *arguments):
        done = run(self, *arguments)
        return replace(done, last=done.value - worse)

    monkeypatch.setattr(Search, "_one", one)
    found = small_fit(tmp_path / "out")
    assert found.tried[6].name == f"{found.tried[5].name}-{twin}"
    assert [path.name.rpartition("-")[2] for path in found.folder.glob("tried/*er")] == [twin]
    assert small_fit(tmp_path / "out", resume=True).tried == found.tried


def test_nothing_to_resume_is_told_with_the_place(tmp_path, monkeypatch, capsys):
    """The caller may be in another folder than they think."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "write_splits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path / "out", resume=True, progress=True)
    assert f"nothing to resume in {tmp_path / 'out'}: a new fit begins" in capsys.readouterr().err


def test_without_a_terminal_each_validation_of_the_last_run_has_a_line(tmp_path, capsys):
    found = small_fit(tmp_path / "out", progress=True, **QUICK)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert lines
    steps = found.tried[-1].steps
    assert all(f"of {steps:,}: train " in line and "validation" in line for line in lines)


def test_a_best_that_went_on_without_a_gain_has_overfitted(whole):
    early = replace(whole.tried[-1], round=1, done=40, best_step=40)
    late = replace(early, round=0, done=60, best_step=0, last=early.value - 0.5)
    told = replace(whole, best=early, tried=(early, late)).report()
    assert "validation was best at step 40 of 100 and 0.5000 nats worse at the end" in told


def test_more_minutes_are_no_advice_where_the_rows_are_good_for_no_more_steps(whole):
    behind = replace(whole.best, value=-1e9, best_step=1, last=-2e9)
    tried = (*whole.tried[:-1], behind)
    told = " ".join(replace(whole, best=behind, tried=tried, all_steps=True).report().split())
    assert "try more weight_decay in recipe.yaml; a Gaussian" in told
    assert "is ahead on validation rows: the rows are good for no more steps" in told
    assert "more minutes" not in told
    few = pandas.DataFrame(numpy.random.default_rng(0).normal(size=(40, 2)), columns=["a", "b"])
    assert small_fit(None, data=few).all_steps


def test_a_best_that_the_clock_stopped_has_not_overfitted(whole):
    """Its learning rate is high in the middle of a schedule."""
    early = replace(whole.tried[-1], round=1, done=40, best_step=40)
    late = replace(early, round=0, done=60, best_step=0, ended="time")
    told = replace(whole, best=early, tried=(early, late)).report()
    assert "too early to tell" in told
    assert "overfit" not in told


def test_an_ensemble_behind_a_single_run_says_so(whole):
    mixed = replace(whole.tried[-1], name="ensemble-of-2", value=whole.best.value - 0.1)
    told = replace(whole, best=mixed, tried=(*whole.tried, mixed)).report()
    assert f"; {whole.best.name} alone is ahead on validation rows" in " ".join(told.split())
    assert "alone is ahead" not in whole.report()


def test_the_folder_holds_the_model_its_rows_and_its_recipe(whole, tmp_path):
    model = create_model(whole.folder, verify=True)
    again = evaluate(model)
    assert (again.value, again.n) == (pytest.approx(whole.value), 60)
    state = training.train(
        whole.folder / RECIPE, data=whole.folder / "data", out=tmp_path / "run", progress=False
    )
    assert state["best"] == whole.best.value
    report = whole.report()
    assert str(whole) == report
    assert f"{whole.value:.4f} +- {whole.stderr:.4f} nats on 60 rows (Gaussian -3." in report
    assert f"impflow-zoo evaluate {whole.folder}" in report


@pytest.mark.slow
def test_another_seed_gives_another_fit(whole, tmp_path):
    """The same one gives the same, also where it was interrupted: see below."""
    assert small_fit(tmp_path / "other", seed=1).best.value != whole.best.value


KILLED = """
import os, signal, sys
from pathlib import Path
from support.fits import small_fit
from impflow_zoo.training import Trainer

left, step = int(sys.argv[2]), Trainer.step
def counted(self):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)
Trainer.step = counted
small_fit(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("steps", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_a_fit_that_was_killed_goes_on_to_the_same_end(whole, tmp_path, steps):
    out = tmp_path / "killed"
    ended = Forked("-c", KILLED, out, steps).ended()
    assert ended.returncode == -signal.SIGKILL
    if steps > 2:
        assert create_model(out).config.features == 2  # the best so far
    with pytest.raises(ModelError, match="holds a fit already: --resume it"):
        small_fit(out)
    with pytest.raises(ModelError, match="was begun with minutes 0.015, not 0.5"):
        small_fit(out, resume=True, minutes=0.5)
    assert_same_fit(small_fit(out, resume=True).folder, whole.folder)


def interrupted(number: int) -> Callable[[Trainer], dict[str, float]]:
    """A step of training; the one of this number meets a Ctrl-C."""
    step, steps = Trainer.step, itertools.count(1)

    def counted(self: Trainer) -> dict[str, float]:
        if next(steps) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    return counted


def test_a_fit_without_a_folder_that_was_interrupted_says_that_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(Trainer, "step", interrupted(5))
    with pytest.raises(StoppedFitError, match="nothing of it is kept: a fit with out=FOLDER can"):
        small_fit(None)


def test_a_fit_that_was_interrupted_goes_on_to_the_same_end(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted(25))
        with pytest.raises(StoppedFitError, match=f"resume=True a fit into {tmp_path} goes on"):
            small_fit(tmp_path)
    assert create_model(tmp_path).config.features == 2  # the best so far
    assert_same_fit(small_fit(tmp_path, resume=True).folder, whole.folder)


def test_a_fit_that_was_killed_in_its_only_run_has_a_model(tmp_path, monkeypatch):
    validate, validations = Trainer.validate, itertools.count(1)

    def killed(self: Trainer) -> None:
        if next(validations) == 3:
            raise KeyboardInterrupt
        validate(self)

    monkeypatch.setattr(Trainer, "validate", killed)
    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path, rounds=Plan())
    run = tmp_path / "tried" / ENTRANTS[0].name
    assert (tmp_path / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    assert create_model(tmp_path).config.features == 2


def test_a_report_names_what_was_not_tried(whole, tmp_path):
    assert "not tried" not in whole.report()
    for members in (1, 2):
        short = small_fit(tmp_path / str(members), members=members, **QUICK)
        assert "not tried    residual, spline: give fit more minutes\n" in short.report()


@pytest.mark.parametrize(
    ("minutes", "lead"), [(0.06, 0.05), pytest.param(0.08, 0.2, marks=pytest.mark.slow)]
)
def test_moons_beat_a_gaussian(minutes, lead):
    found = fit("toy:moons", minutes=minutes, progress=False)
    assert found.value > found.test_baselines["Gaussian"] + lead
    gained, error = found.leads["Gaussian"]
    assert gained == found.value - found.test_baselines["Gaussian"]
    assert 0 < error < found.stderr  # less than of two scores apart
    assert f"lead         {gained:.4f} +- {error:.4f} over Gaussian" in found.report()
    folder = found.folder
    assert folder.is_dir()
    del found
    assert not folder.exists()


def test_frames_arrays_and_contexts(tmp_path):
    rows = open_toy("moons", 300).rows(range(300)).numpy()
    frame = pandas.DataFrame(rows, columns=["x", "y"]).assign(k=numpy.round(rows[:, 0] * 2))
    found = small_fit(None, data=frame, given=("k",), **QUICK)
    assert found.model.config.columns == ("x", "y")
    assert found.model.sample(2, torch.zeros(1, 1)).shape == (1, 2, 2)
    assert "Gaussian" in found.test_baselines
    array = small_fit(None, data=rows, **QUICK)
    assert array.model.config.columns == ("x0", "x1")


def test_an_ensemble_is_one_model_with_a_recipe(tmp_path):
    found = small_fit(tmp_path / "out", members=2)
    leader = found.tried[-3].name.removesuffix("-seed-0")
    assert [one.name for one in found.tried[-3:]] == [
        f"{leader}-seed-0",
        f"{leader}-seed-1",
        "ensemble-of-2",
    ]
    assert isinstance(found.model, Ensemble)
    assert found.best.name == "ensemble-of-2"
    assert found.best.last is None  # which would be that of a member
    assert found.best.value >= (found.tried[-3].value + found.tried[-2].value) / 2
    state = training.train(
        found.folder / RECIPE, data=found.folder / "data", out=tmp_path / "run", progress=False
    )
    assert state["best"] == found.best.value
    before = timeless(found.folder)
    small_fit(tmp_path / "out", members=2, resume=True)
    assert timeless(found.folder) == before


def test_the_card_says_what_was_tried_and_how_to_make_it_again(whole):
    card = (whole.folder / CARD).read_text()
    assert f"| **{whole.best.name}** | " in card
    assert f"{whole.value:.4f} ± {whole.stderr:.4f} |" in card
    for one in whole.baselines:
        assert f"| {one.name} |  |  | {one.validation:.4f} |" in card
    assert f"impflow-zoo fit {whole.folder}/data --out runs/again --minutes 0.015" in card
    assert f"impflow-zoo train {whole.folder}/recipe.yaml --data {whole.folder}/data" in card
    assert "a margin of" in card or "invertible by construction" in card
    assert "\nlicense:" not in card
    assert "hub_configs" not in card
    assert evaluate(create_model(whole.folder)).published == pytest.approx(whole.value, abs=1e-5)


def test_nothing_on_the_card_leaves_its_line(tmp_path, monkeypatch):
    """Names of columns and folders are shown, and commands run as printed."""
    monkeypatch.undo()  # names stand in pictures, too
    rows = open_toy("moons", 600).rows(range(600)).numpy()
    name = "x\r```\r<script>\rimport os\x1b"
    frame = pandas.DataFrame({"a": rows[:, 0], "b": rows[:, 1], name: rows[::-1, 0]})
    said = {"given": (name,), "data_name": "their `data`\n```\n.csv"}
    small_fit(tmp_path / "my fit", data=frame, **said, **QUICK)
    lines = (tmp_path / "my fit" / CARD).read_text().splitlines()
    strange = [line for line in lines if "import os" in line or "`data`" in line]
    assert not any(line.startswith(("import os", "<script>")) for line in lines)
    assert strange
    assert "\x1b" not in "".join(strange)
    assert f"impflow-zoo evaluate '{tmp_path}/my fit'" in lines
    assert sum(line.startswith("```") for line in lines) % 2 == 0


@pytest.mark.parametrize(
    ("data", "name"),
    [(".", "here"), ("here.csv", "here.csv"), ("owner/set", "owner/set"), ("`", " ")],
)
def test_data_have_a_name_on_the_card(data, name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert card_words(data)["data_name"] == name


@pytest.mark.parametrize("text", ["[]", "5", "[" * 100_000, '{"asked": 5, "tried": []}', "{}"])
def test_a_damaged_state_of_a_fit_is_refused(text, tmp_path):
    (tmp_path / STATE).write_text(text)
    with pytest.raises(ModelError, match=f"{STATE} is damaged"):
        small_fit(tmp_path, resume=True)


def test_a_run_that_no_fit_has_ended_is_refused(whole, tmp_path):
    state = json.loads((whole.folder / STATE).read_text())
    (tmp_path / STATE).write_text(json.dumps({**state, "tried": [{"name": "x"}]}))
    with pytest.raises(ModelError, match=f"{STATE} is damaged"):
        small_fit(tmp_path, resume=True)


def test_rows_have_weights(tmp_path):
    """The heavy half of the table is the one that is found, and the folder keeps the weights."""
    x = open_toy("moons", 600).rows(range(600)).numpy()
    frame = pandas.DataFrame(x, columns=["x", "y"])
    frame["w"] = numpy.where(frame["x"] < 0.5, 1.0, 1e-3)
    found = small_fit(tmp_path / "out", data=frame, weights="w")
    assert found.model.config.columns == ("x", "y")
    rows = found.model.sample(300, generator=torch.Generator().manual_seed(0))
    assert float((rows[:, 0] < 0.7).double().mean()) > 0.85
    again = evaluate(create_model(found.folder))
    assert (again.value, again.stderr) == pytest.approx((found.value, found.stderr))
    assert again.weights == "w"
    assert f"nats on {found.n} rows, weighted by w (Gaussian" in found.report()
    card = (found.folder / CARD).read_text(encoding="utf-8")
    assert f"weighted: {again.effective_n:,.0f} rows of equal weight would give the same" in card
    with pytest.raises(ModelError, match="was begun with weights w, not None"):
        small_fit(tmp_path / "out", data=frame[["x", "y"]], resume=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"data": "nowhere.csv"}, DataError, "no such file or folder: nowhere.csv"),
        ({"data": [1, 2]}, DataError, "data of type list: a file"),
        ({"data": numpy.eye(5, 2)}, DataError, "5 rows without missing values"),
        ({"minutes": 0}, ModelError, "minutes=0: a positive number"),
        ({"seed": -1}, ModelError, "seed=-1: a whole number"),
        ({"given": "z"}, DataError, "no column 'z'"),
        ({"out": __file__}, ModelError, "is a file: --out takes a folder"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        fit(**{"data": "toy:moons", "progress": False, **arguments})


@pytest.mark.parametrize("name", [WEIGHTS, CARD, RECIPE, "data", "test.parquet"])
def test_a_folder_of_something_else_is_refused(name, tmp_path):
    """Such as that of a project, whose rows lie in `data`."""
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ModelError, match=f"holds a {name} of something else"):
        small_fit(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "together", lambda device: Processes(1, 2, torch.device("cpu")))
    with pytest.raises(ModelError, match="one process, not in 2"):
        small_fit(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_fit_goes_on_with_the_same_rows_alone(tmp_path):
    rows = open_toy("moons", 600).rows(range(600)).numpy()
    small_fit(tmp_path, data=rows, **QUICK)
    with pytest.raises(ModelError, match="was begun with seed 0, not 1"):
        small_fit(tmp_path, data=rows, seed=1, resume=True, **QUICK)
    rows[301] += 1
    with pytest.raises(ModelError, match="was begun with other rows"):
        small_fit(tmp_path, data=rows, resume=True, **QUICK)


def test_the_command_on_a_card_names_columns_as_the_command_line_takes_them(tmp_path):
    rows = open_toy("moons", 600).rows(range(600)).numpy()
    frame = pandas.DataFrame({"x": rows[:, 0], "y": rows[:, 1], "z, t": rows[::-1, 0]})
    small_fit(tmp_path, data=frame, given=("z, t",), **QUICK)
    (again,) = re.findall("impflow-zoo fit .*", (tmp_path / CARD).read_text())
    words = shlex.split(again)
    assert words[2] == f"{tmp_path}/data"
    assert between_commas(words[words.index("--given") + 1]) == ["z, t"]


def test_rows_in_memory_are_kept_for_the_command_on_the_card(tmp_path):
    rows = open_toy("moons", 600).rows(range(600)).numpy()
    frame = pandas.DataFrame({"x": rows[:, 0].round(2), "y": rows[:, 1]})
    first = small_fit(tmp_path / "first", data=frame, **QUICK)
    (again,) = re.findall("impflow-zoo fit .*", (first.folder / CARD).read_text())
    second = small_fit(tmp_path / "again", data=shlex.split(again)[2], **QUICK)
    assert second.columns.config() == first.columns.config()
    assert "| data | table |" in (first.folder / CARD).read_text()
    for split in ("validation", "test"):  # training rows come in another order
        file = Path("data", f"{split}.parquet")
        one, other = (pandas.read_parquet(fitted.folder / file) for fitted in (first, second))
        pandas.testing.assert_frame_equal(one, other)


@pytest.mark.slow
def test_settings_may_be_numbers_of_numpy(tmp_path):
    settings = {"seed": numpy.int64(3), "minutes": numpy.float32(0.004), "ensemble": numpy.int8(1)}
    first = fit("toy:moons", out=tmp_path, progress=False, **settings)
    again = fit("toy:moons", out=tmp_path, progress=False, resume=True, **settings)
    assert again.value == first.value


def test_a_candidate_that_fails_does_not_end_the_search(tmp_path, monkeypatch):
    from impflow_zoo.fitting import search
    from impflow_zoo.numerics.solver import SolverError

    train_on = search.train_on

    def failing(recipe, *arguments, **options):
        if recipe.model == ENTRANTS[0].model:
            raise SolverError("no root")
        return train_on(recipe, *arguments, **options)

    monkeypatch.setattr(search, "train_on", failing)
    found = small_fit(tmp_path / "out")
    assert found.tried[0].value is None
    assert found.tried[0].ended == "no root"
    assert found.best.name != "implicit"


@pytest.fixture
def clock(monkeypatch):
    """The minutes that last runs have, in a list to be changed."""
    from impflow_zoo.fitting import search

    train_on, minutes = search.train_on, [0.0]

    def hurried(*arguments, **options):
        limit = options.pop("max_minutes")
        return train_on(*arguments, max_minutes=None if limit is None else minutes[0], **options)

    monkeypatch.setattr(search, "train_on", hurried)
    return minutes


def test_a_last_run_that_the_clock_stops_goes_on(whole, tmp_path, clock):
    out = tmp_path / "slow"
    stopped = small_fit(out)
    assert (stopped.tried[-1].ended, stopped.tried[-1].done) == ("time", 1)
    assert f"at step 1 of {stopped.tried[-1].steps}: --resume goes on" in stopped.report()
    clock[0] = 60.0
    assert_same_fit(small_fit(out, resume=True).folder, whole.folder)


def test_an_ensemble_is_joined_again_when_its_members_went_on(tmp_path, clock):
    out = tmp_path / "slow"
    early = small_fit(out, members=2, minutes=0.02)
    assert [one.ended for one in early.tried[-3:-1]] == ["time", "time"]
    clock[0] = 60.0
    late = small_fit(out, members=2, minutes=0.02, resume=True)
    assert [one.ended for one in late.tried[-3:]] == ["steps"] * 3
    assert late.best.name == "ensemble-of-2"
    assert late.best.value > early.best.value


def test_a_fit_that_is_killed_when_a_run_has_ended_tells_how_it_did(whole, tmp_path, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Search, "_keep_best", killed)
        with pytest.raises(KeyboardInterrupt):
            small_fit(tmp_path)
    assert_same_fit(small_fit(tmp_path, resume=True).folder, whole.folder)
