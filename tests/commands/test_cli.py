"""The command line: what each command prints and writes, and how mistakes end."""

from __future__ import annotations

import csv
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.command_line import Outcome
from support.small_models import MEAN, make, write_recipe

from impflow_zoo import ResFlow, create_model, evaluate, list_models
from impflow_zoo.models.folder import GOLDEN, LOG, RECIPE, WEIGHTS

PNG = b"\x89PNG\r\n\x1a\n"
DEFAULT = "impflow-power-plant"


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> Path:
    """A model of the plane with a recipe on moons."""
    folder = tmp_path_factory.mktemp("zoo") / "plane"
    make(dtype=torch.float32).save_pretrained(folder)
    write_recipe(folder)
    return folder


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Path:
    """A model of three named columns."""
    folder = tmp_path_factory.mktemp("zoo") / "space"
    make(features=3, columns=("a", "b", "c"), dtype=torch.float32).save_pretrained(folder)
    return folder


# ---------------------------------------------------------------------------------- commands


def test_list_names_every_model(run):
    text = run("list").out
    assert all(name in text for name in list_models())
    described = run("list", "--json").json["models"]
    assert [m["name"] for m in described] == list_models()
    one = next(m for m in described if m["name"] == DEFAULT)
    assert one["model"] == "ImpFlow"
    assert one["pretrained"] is True
    assert one["parameters"] == sum(p.numel() for p in create_model(DEFAULT).parameters())
    assert run("list", "nothing-*").out == ""
    for pattern in ("impflow-*", "power"):
        shown = [m["name"] for m in run("list", pattern, "--json").json["models"]]
        assert shown == [name for name in list_models() if pattern.strip("*") in name] != []


def test_list_names_recipes_without_weights_apart(run):
    described = run("list", "--recipes", "--json").json["models"]
    assert [m["name"] for m in described] == list_models(pretrained=False)
    assert not any(m["pretrained"] or m["value"] for m in described)
    assert not {*list_models()} & {*list_models(pretrained=False)}
    assert (
        "no recipe without weights matches 'nothing-*'" in run("list", "nothing-*", "--recipes").err
    )


def test_nothing_is_asked_of_a_gpu_where_the_cpu_is_named(run, plane, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("a GPU was looked for"))
    assert run("evaluate", plane, "--limit", 5, "--device", "cpu", "--json").json["n"] == 5


def test_evaluate_prints_one_json_object(run, plane):
    result = run("evaluate", plane, "--limit", 50, "--seed", 3, "--json").json
    expected = evaluate(plane, limit=50, seed=3)
    assert result["metric"] == "log_likelihood"
    assert result["value"] == pytest.approx(expected.value)
    assert result["stderr"] == pytest.approx(expected.stderr)
    assert result["estimator_stderr"] == 0.0
    assert (result["n"], result["split"], result["model"]) == (50, "test", str(plane))


def test_evaluate_prints_a_report(run, plane):
    outcome = run("evaluate", plane, "--dataset", "toy:rings", "--split", "test", "--limit", 20)
    assert outcome.code == 0
    assert "toy:rings, split test: 20 rows" in outcome.out
    for line in ("log likelihood", "on the card", "estimator error", "solver", "round trip"):
        assert line in outcome.out
    assert "scoring" in outcome.err  # progress stays off stdout


def test_evaluate_of_the_default_scores_what_ships(run):
    result = run("evaluate", DEFAULT, "--json").json
    assert result["n"] == 946
    assert result["value"] > -16.648 + 0.5  # the best Gaussian
    assert result["stderr"] < 0.1


@pytest.mark.parametrize("folder", ["plane", "space"])
def test_evaluate_draws_the_density(folder, run, request, tmp_path):
    model = request.getfixturevalue(folder)
    data = "toy:moons"
    if folder == "space":
        data = tmp_path / "test.csv"
        rows = [f"{MEAN + math.sin(i)},{MEAN + math.cos(i)},{i}" for i in range(20)]
        data.write_text("\n".join(["a,b,c", *rows]))
    picture = tmp_path / "density.PNG"
    outcome = run("evaluate", model, "--dataset", data, "--limit", 20, "--picture", picture)
    assert outcome.code == 0, outcome.err
    assert picture.read_bytes().startswith(PNG)
    assert str(picture) in outcome.out


def test_sample_writes_a_table(run, space, tmp_path):
    outcome = run("sample", space, "-n", 5, "--out", tmp_path / "x.csv", "--seed", 7)
    assert outcome.code == 0, outcome.err
    with open(tmp_path / "x.csv") as file:
        header, *rows = csv.reader(file)
    assert header == ["a", "b", "c"]
    expected = create_model(space).sample(5, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(torch.tensor([[float(v) for v in row] for row in rows]), expected)


def test_sample_names_columns_that_have_no_names(run, plane, tmp_path):
    out = tmp_path / "x.csv"
    options = ("--temperature", 0, "--json")
    assert run("sample", plane, "-n", 2, "--out", out, *options).json["n"] == 2
    header, first, second = out.read_text().split()
    assert header == "x0,x1"
    assert first == second


def test_sample_draws_points_of_the_plane(run, plane, tmp_path):
    assert run("sample", plane, "-n", 50, "--out", tmp_path / "x.PNG").code == 0
    assert (tmp_path / "x.PNG").read_bytes().startswith(PNG)


def test_certify_states_bounds_and_margin(run, plane):
    text = run("certify", plane).out
    found = re.search(r"margin (\S+); golden batch reproduced\n$", text)
    assert float(found[1]) == pytest.approx(0.2, rel=1e-4)
    stated = run("certify", plane, "--json").json
    assert stated["bound"] == pytest.approx(0.8, rel=1e-5)
    assert stated["margin"] == pytest.approx(0.2, rel=1e-4)
    assert len(stated["nets"]) == 4


def test_certify_shows_the_smaller_bound_of_spectral_nets(run, tmp_path):
    make(net="spectral", activation="elu", dtype=torch.float32).save_pretrained(tmp_path)
    text = run("certify", tmp_path).out
    assert (
        len(re.findall(r"net_.: Lip <= 0\.80.* margin 0\.\d+; LipSDP: Lip <= 0\.[0-7]", text)) == 4
    )
    nets = run("certify", tmp_path, "--json").json["nets"]
    assert all(net["lipsdp"] < 0.8 < net["bound"] + 1e-5 for net in nets)


def test_certify_bounds_a_model_without_a_golden_batch(run, tmp_path):
    make(dtype=torch.float32).save_pretrained(tmp_path)
    (tmp_path / GOLDEN).unlink()
    outcome = run("certify", tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith("no golden batch to reproduce\n")
    assert run("certify", tmp_path, "--json").json["golden"] is False


def test_a_picture_without_matplotlib_is_refused_before_scoring(run, plane, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    outcome = run("evaluate", plane, "--limit", 5, "--picture", tmp_path / "x.png")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "impflow-zoo: pictures need matplotlib: pip install 'impflow_zoo[plot]'"
    ]


def test_help_is_plain_text(run):
    outcome = run("--help")
    assert outcome.code == 0
    for command in ("list", "evaluate", "sample", "train", "certify"):
        assert command in outcome.out
    assert not set(outcome.out) & set("╭│─╰")


# ---------------------------------------------------------------------------------- mistakes


def _damaged(folder: Path) -> Path:
    make(dtype=torch.float32).save_pretrained(folder / "damaged")
    weights = folder / "damaged" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:100])
    return folder / "damaged"


def _conditional(folder: Path) -> Path:
    make(context_features=2, dtype=torch.float32).save_pretrained(folder / "conditional")
    return folder / "conditional"


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _huge(folder: Path) -> Path:
    return write_recipe(folder, config={"blocks": 10**12})


def _no_model_yet(folder: Path) -> Path:
    _file(LOG, b"")(folder)
    return folder


def _staged_nothing(folder: Path) -> Path:
    return write_recipe(folder / "bare").parent


def _other_class(folder: Path) -> Path:
    make(ResFlow, blocks=1, hidden_features=(8,)).save_pretrained(folder / "other")
    return folder / "other"


# A callable stands for a file that it makes in a temporary folder, {} for that folder.
MISTAKES = {
    "unknown model": (["evaluate", "impflow-pow"], "no model 'impflow-pow' in the zoo"),
    "neither folder nor id": (["evaluate", "a/b/c"], "a/b/c"),
    "folder without config": (["evaluate", "{}"], "has no config.json: not a model"),
    "revision of a folder": (
        ["evaluate", "{plane}@main"],
        "plane is a folder and has no revisions: leave @main out",
    ),
    "damaged weights": (["evaluate", _damaged], "truncated or damaged"),
    "unknown split": (["evaluate", DEFAULT, "--split", "dev"], "only the split 'test' ships"),
    "unknown toy": (["evaluate", "{plane}", "--dataset", "toy:square"], "unknown toy 'square'"),
    "no name of data": (
        ["evaluate", "{plane}", "--dataset", ""],
        "the name of a data set is empty",
    ),
    "no name of a toy": (["evaluate", "{plane}", "--dataset", "toy:"], "unknown toy ''"),
    "unknown toy split": (
        ["evaluate", "{plane}", "--dataset", "toy:moons", "--split", "dev"],
        "has no split 'dev', choose one of: train, validation, test",
    ),
    "data without the columns": (
        ["evaluate", "{space}", "--dataset", _file("test.csv", b"a,b\n1,2\n")],
        "no column c, there are: a, b",
    ),
    "data that is no table": (
        ["evaluate", "{plane}", "--dataset", _file("test.parquet", b"nothing")],
        "cannot load dataset",
    ),
    "data of another kind": (["evaluate", "{plane}", "--dataset", _file("x.txt", b"1")], ".txt"),
    "data missing": (["evaluate", "{plane}", "--dataset", "./no.csv"], "no such file or folder"),
    "no data": (["evaluate", "{space}"], "no data to score on"),
    "a device without numbers": (
        ["sample", "{plane}", "--out", "{}/x.csv", "--device", "meta"],
        "device='meta': it holds no numbers; cpu, cuda or cuda:1",
    ),
    "no such device": (
        ["sample", "{plane}", "--out", "{}/x.csv", "--device", "mps"],
        "device='mps': ",
    ),
    "a benchmark that is not there": (
        ["evaluate", "{plane}", "--dataset", "power:/nosuch"],
        "power:/nosuch: unknown kind of data",
    ),
    "two names for one namespace": (
        ["publish", "--namespace", "bad/name", "--dry-run"],
        "namespace 'bad/name': the name of one user or organisation",
    ),
    "nothing to list": (["list", "nothing", "--json"], "no model matches 'nothing'"),
    "conditional model": (
        ["evaluate", _conditional, "--dataset", "toy:moons"],
        "contexts have no names",
    ),
    "conditional rows": (
        ["reconstruct", _conditional, "--dataset", "toy:moons"],
        "contexts have no names",
    ),
    "picture in no folder": (
        ["evaluate", "{plane}", "--picture", "{}/none/x.png"],
        "none does not exist",
    ),
    "picture of another kind": (
        ["evaluate", "{plane}", "--picture", "{}/x.gif"],
        "a name ending in .png is needed",
    ),
    "samples in no folder": (["sample", "{plane}", "--out", "{}/none/x.csv"], "does not exist"),
    "samples into a folder": (["sample", "{plane}", "--out", "{}"], "is a folder: name a file"),
    "samples of another kind": (["sample", "{plane}", "--out", "{}/x.txt"], ".png or .csv"),
    "picture of a table": (
        ["sample", "{space}", "--out", "{}/x.png"],
        "draws rows of 3 columns: write them to a .csv file",
    ),
    "conditional samples": (
        ["sample", _conditional, "--out", "{}/x.csv"],
        "contexts have no names",
    ),
    "temperature infinite": (
        ["sample", "{plane}", "--out", "{}/x.csv", "--temperature", "inf"],
        "temperature=inf",
    ),
    "temperature too high": (
        ["sample", "{plane}", "--out", "{}/x.csv", "--temperature", "1e39"],
        "noise hold NaN or infinity",
    ),
    "more samples than memory": (
        ["sample", "{plane}", "--out", "{}/x.csv", "-n", 10**16],
        "not enough memory",
    ),
    "certify damage": (["certify", _damaged], "truncated or damaged"),
    "no recipe": (["train", "{}/none.yaml"], "none.yaml cannot be read: No such file"),
    "recipe is a folder": (["train", "{}"], "cannot be read: Is a directory"),
    "recipe is no YAML": (["train", _file("r.yaml", b"model: [")], "is no valid YAML"),
    "recipe is no text": (["train", _file("r.yaml", b"\xff\x00")], "is no valid YAML"),
    "recipe beyond any memory": (
        ["train", _huge, "--out", "{}/run"],
        "numbers or more: take fewer blocks or smaller sizes",
    ),
    "recipe of an unknown model": (["train", _file("r.yaml", b"model: Glow")], "unknown model"),
    "recipe without a model": (
        ["train", _file("r.yaml", b"config: {}")],
        "names no model",
    ),
    "a run without a validation": (["certify", _no_model_yet], "no config.json: a run"),
    "nothing to resume": (
        ["train", "{recipe}", "--out", "{plane}", "--resume"],
        "holds the weights of a model",
    ),
    "a model in the way": (["train", "{recipe}", "--out", "{plane}"], "holds the weights of a"),
    "unknown start": (
        ["train", "{recipe}", "--out", "{}", "--init-from", "none"],
        "no model 'none'",
    ),
    "another start": (
        ["train", "{recipe}", "--out", "{}/run", "--init-from", _other_class],
        "weights of another architecture?",
    ),
    "no training data": (["train", "{recipe}", "--out", "{}", "--data", "./no"], "no such file or"),
    "stage without a recipe": (["stage", "{}"], "recipe.yaml cannot be read"),
    "stage no run": (["stage", _staged_nothing, "--run", "{}/no"], "no is no folder of a run"),
    "stage an empty run": (["stage", _staged_nothing, "--run", "{}"], "holds no weights yet"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_in_one_line(arguments, message, run, plane, space, tmp_path):
    places = {"plane": plane, "space": space, "recipe": plane / RECIPE}
    filled = [
        a(tmp_path) if callable(a) else str(a).replace("{}", str(tmp_path)).format(**places)
        for a in arguments
    ]
    before = sorted(tmp_path.rglob("*"))
    outcome = run(*filled)
    assert outcome.code == 2, outcome.err
    assert outcome.out == ""
    assert message in outcome.err
    lines = [line for line in outcome.err.splitlines() if line and "examples/s" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("impflow-zoo: ")
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written


USAGE = {
    "unknown command": ["evaluat"],
    "unknown option": ["evaluate", DEFAULT, "--datset", "toy:moons"],
    "missing argument": ["evaluate"],
    "missing output": ["sample", DEFAULT],
    "text for a number": ["evaluate", DEFAULT, "--limit", "ten"],
    "no rows": ["evaluate", DEFAULT, "--limit", "0"],
    "no samples": ["sample", DEFAULT, "--out", "x.csv", "-n", "0"],
    "negative temperature": ["sample", DEFAULT, "--out", "x.csv", "--temperature", "-1"],
    "negative seed": ["evaluate", DEFAULT, "--seed", "-1"],
    "huge seed": ["evaluate", DEFAULT, "--seed", str(2**63)],
    "negative time": ["train", "recipe.yaml", "--max-minutes", "-1"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_wrong_usage_is_told_in_plain_text(arguments, run):
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("Usage: impflow-zoo")
    assert outcome.err.splitlines()[-1].startswith("Error: ")
    assert not set(outcome.err) & set("╭│─╰")


def test_a_full_disk_leaves_no_half_of_a_table(run, plane, tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "x.csv"
    out.write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    outcome = run("sample", plane, "--out", out)
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
    assert out.read_text() == "before"


# ------------------------------------------------------------------------------ as a process


def process(*arguments: object, **environment: str) -> Outcome:
    ended = subprocess.run(
        [sys.executable, "-m", "impflow_zoo", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def test_as_a_process_stdout_is_one_json_object():
    result = process("evaluate", DEFAULT, "--limit", 20, "--json").json
    assert {"metric", "value", "stderr", "estimator_stderr", "n"} <= result.keys()
    assert result["n"] == 20


def test_as_a_process_an_id_that_cannot_be_fetched_is_a_mistake(tmp_path):
    outcome = process(
        "evaluate", "nobody/nothing", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "cache")
    )
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err.count("\n") == 1
    assert "nobody/nothing" in outcome.err
