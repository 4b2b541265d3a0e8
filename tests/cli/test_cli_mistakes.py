"""How mistakes end on the command line: one plain line, exit code 2, nothing half-written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.small_models import make, write_recipe

from impflow_zoo import ResFlow
from impflow_zoo.models.filenames import LOG, RECIPE, WEIGHTS

DEFAULT = "impflow-power-plant"


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
    return write_recipe(folder, config={"hidden_features": [10**6, 10**6]})


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
        "has no revisions: leave 'main' out",
    ),
    "damaged weights": (["evaluate", _damaged], "truncated or damaged"),
    "unknown split": (["evaluate", DEFAULT, "--split", "dev"], "only the split 'test' ships"),
    "unknown toy": (["evaluate", "{plane}", "--dataset", "toy:square"], "unknown toy 'square'"),
    "no name of data": (
        ["evaluate", "{plane}", "--dataset", ""],
        "name of a data set is empty",
    ),
    "no name of a toy": (["evaluate", "{plane}", "--dataset", "toy:"], "unknown toy ''"),
    "unknown toy split": (
        ["evaluate", "{plane}", "--dataset", "toy:moons", "--split", "dev"],
        "no split 'dev', choose one of: train",
    ),
    "data without the columns": (
        ["evaluate", "{space}", "--dataset", _file("test.csv", b"a,b\n1,2\n")],
        "no column c, only a, b",
    ),
    "data that is no table": (
        ["evaluate", "{plane}", "--dataset", _file("test.parquet", b"nothing")],
        "cannot load dataset",
    ),
    "data of another kind": (["evaluate", "{plane}", "--dataset", _file("x.txt", b"1")], ".txt"),
    "data missing": (["evaluate", "{plane}", "--dataset", "./no.csv"], "no such file or folder"),
    "no data": (["evaluate", "{space}"], "no data to evaluate on"),
    "a device without numbers": (
        ["sample", "{plane}", "--out", "{}/x.csv", "--device", "meta"],
        "device='meta': ",
    ),
    "no such device": (
        ["sample", "{plane}", "--out", "{}/x.csv", "--device", "mps"],
        "device='mps': ",
    ),
    "a benchmark that is not there": (
        ["evaluate", "{plane}", "--dataset", "power:/nosuch"],
        "unknown kind of data",
    ),
    "two names for one namespace": (
        ["publish", "--namespace", "bad/name", "--dry-run"],
        "'bad/name/name' is neither a folder nor",
    ),
    "nothing to list": (["list", "nothing", "--json"], "no model matches 'nothing'"),
    "conditional model": (
        ["evaluate", _conditional, "--dataset", "toy:moons"],
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
        "write them to a .csv file",
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
        "noise with NaN or infinity",
    ),
    "more samples than memory": (
        ["sample", "{plane}", "--out", "{}/x.csv", "-n", 10**16],
        "10,000,000,000,000,000 samples take",
    ),
    "no recipe": (["train", "{}/none.yaml"], "none.yaml cannot be read: No such file"),
    "recipe in an empty folder": (["train", "{}"], "recipe.yaml cannot be read: No such file"),
    "recipe is no YAML": (["train", _file("r.yaml", b"model: [")], "is not valid YAML"),
    "recipe beyond any memory": (
        ["train", _huge, "--out", "{}/run"],
        "numbers: use smaller sizes",
    ),
    "recipe without a model": (
        ["train", _file("r.yaml", b"config: {}")],
        "names no model",
    ),
    "a run without a validation": (["certify", _no_model_yet], "no config.json: a run"),
    "nothing to resume": (
        ["train", "{recipe}", "--out", "{plane}", "--resume"],
        "holds a model.safetensors",
    ),
    "a model in the way": (["train", "{recipe}", "--out", "{plane}"], "holds a model.safetensors"),
    "unknown start": (
        ["train", "{recipe}", "--out", "{}", "--init-from", "none"],
        "no model 'none'",
    ),
    "another start": (
        ["train", "{recipe}", "--out", "{}/run", "--init-from", _other_class],
        "weights of another architecture?",
    ),
    "no training data": (["train", "{recipe}", "--out", "{}", "--data", "./no"], "no such file or"),
    "stage without a recipe": (["stage", "{}"], "has no recipe.yaml"),
    "stage no run": (["stage", _staged_nothing, "--run", "{}/no"], "no is not the folder of"),
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


def test_a_traceback_is_shown_on_request(run, tmp_path, monkeypatch):
    recipe = _file("r.yaml", b"model: [")(tmp_path)
    line = run("train", recipe).err
    monkeypatch.setenv("IMPFLOW_ZOO_TRACEBACK", "1")
    outcome = run("train", recipe)
    assert outcome.code == 2
    assert outcome.err.startswith("Traceback")
    assert "yaml.parser.ParserError" in outcome.err  # what the line was made of
    assert outcome.err.endswith(line)
    assert "IMPFLOW_ZOO_TRACEBACK=1" in run("--help").out


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
    "huge seed of a training": ["train", "recipe.yaml", "--seed", str(2**63)],
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
