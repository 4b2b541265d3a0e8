"""The command line: what each command prints and writes."""

from __future__ import annotations

import csv
import math
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas
import pytest
import torch
from PIL import Image
from support.command_line import Outcome
from support.small_models import MEAN, make

from impflow_zoo import create_model, evaluate, list_models
from impflow_zoo.cli import app
from impflow_zoo.models.filenames import GOLDEN

PNG = b"\x89PNG\r\n\x1a\n"
DEFAULT = "impflow-power-plant"


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


def test_list_has_a_header_and_says_which_scores_are_better(run):
    header, *lines = run("list", "power-plant").out.splitlines()
    assert header.split() == ["model", "class", "parameters", "score", "unit", "better"]
    assert all(line.endswith("  nats  higher") for line in lines)
    (cifar,) = (line for line in run("list").out.splitlines() if line.startswith("impflow-cifar10"))
    assert cifar.split()[-2:] == ["bits/dim", "lower"]
    assert {line.index("nats") for line in lines} == {header.index("unit")}
    described = run("list", DEFAULT, "--json").json["models"]
    assert [(m["unit"], m["direction"]) for m in described[:1]] == [("nats", "higher is better")]


@pytest.mark.parametrize("which", [(), ("--recipes",)], ids=["models", "recipes"])
def test_list_builds_no_model(which, run, monkeypatch):
    monkeypatch.setattr("impflow_zoo.models.density.Density.__init__", None)
    assert run("list", *which).code == 0


def test_list_names_recipes_without_weights_apart(run):
    described = run("list", "--recipes", "--json").json["models"]
    assert [m["name"] for m in described] == list_models(pretrained=False)
    assert not any(m["pretrained"] or m["value"] or m["parameters"] for m in described)
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
    for line in ("log likelihood", "solver", "round trip"):
        assert line in outcome.out
    assert "estimator error      none (log-det exact)" in outcome.out
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
    if folder == "space":  # a column has values that float32 does not tell apart
        data = tmp_path / "test.csv"
        rows = [f"{MEAN + math.sin(i)},{MEAN + math.cos(i)},{1000 + 1e-6 * i}" for i in range(20)]
        data.write_text("\n".join(["a,b,c", *rows]))
    picture = tmp_path / "density.PNG"
    outcome = run("evaluate", model, "--dataset", data, "--limit", 20, "--picture", picture)
    assert outcome.code == 0, outcome.err
    assert picture.read_bytes().startswith(PNG)
    assert str(picture) in outcome.out


def test_scores_of_rows_go_to_a_file(run, plane, tmp_path):
    rows = ("--dataset", "toy:moons", "--limit", 20)
    outcome = run("evaluate", plane, *rows, "--scores", tmp_path / "scores.csv", "--json")
    written = pandas.read_csv(tmp_path / "scores.csv")
    assert [*written] == ["row", "log_likelihood"]
    assert [*written["row"]] == [*range(20)]
    assert written["log_likelihood"].mean() == pytest.approx(outcome.json["value"])
    table = tmp_path / "weighted.csv"
    table.write_text("x,y,w\n0,1,0\n1,0,1\n0,0,1\n")
    weighted = ("evaluate", plane, "--dataset", table, "--scores", tmp_path / "scores.csv")
    refused = run(*weighted, "--weights", "w")
    assert "those of weight 0 are left out: add --weights ''" in refused.err
    refused = run("evaluate", plane, *rows, "--scores", "scores.csv", "--skip-corrupt")
    assert refused.err == "impflow-zoo: --scores counts the rows: leave --skip-corrupt out\n"


def test_a_picture_shows_the_columns_that_are_named(run, plane, space, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        f"{MEAN + math.sin(i)},{MEAN + math.cos(i)},{MEAN + math.sin(2 * i)}" for i in range(20)
    ]
    Path("rows.csv").write_text("\n".join(["a,b,c", *lines]))
    rows = (space, "--dataset", "rows.csv")
    outcomes = []
    for columns, words in (("c,a", rows), ("c,aa", rows), ("x", (plane, "--limit", 20))):
        picture = ("--columns", columns, "--picture", f"{columns}.png")
        outcomes.append(run("evaluate", *words, *picture))
    with Image.open("c,a.png") as picture:
        width = picture.width
    run("evaluate", *rows, "--picture", "all.png")
    with Image.open("all.png") as picture:
        assert picture.width == pytest.approx(1.5 * width, rel=0.1)  # three columns
    assert [outcome.code for outcome in outcomes] == [0, 2, 2]
    assert "did you mean 'a'?" in outcomes[1].err
    assert "picture shows no pairs" in outcomes[2].err
    assert "add --picture FILE" in run("evaluate", *rows, "--columns", "c,a").err


def test_sample_writes_a_table(run, space, tmp_path):
    outcome = run("sample", space, "-n", 5, "--out", tmp_path / "x.csv", "--seed", 7)
    assert outcome.code == 0, outcome.err
    with open(tmp_path / "x.csv") as file:
        header, *rows = csv.reader(file)
    assert header == ["a", "b", "c"]
    expected = create_model(space).sample(5, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(torch.tensor([[float(v) for v in row] for row in rows]), expected)


def test_sample_writes_the_file_behind_a_symbolic_link(run, plane, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "x.csv", tmp_path / "x.csv"
    link.symlink_to(target)
    assert run("sample", plane, "-n", 2, "--out", link).code == 0
    assert link.is_symlink()
    assert len(pandas.read_csv(target)) == 2


def test_sample_writes_whole_numbers_as_such(run, tmp_path):
    folder, out = tmp_path / "counts", tmp_path / "x.csv"
    make(features=2, columns=("a", "hits"), rounding={"hits": 1}).save_pretrained(folder)
    assert run("sample", folder, "-n", 3, "--out", out).code == 0
    assert all(hits.lstrip("-").isdecimal() for hits in pandas.read_csv(out, dtype=str).hits)


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
        len(
            re.findall(
                r"block \d, net_.: Lip <= 0\.80.* margin 0\.\d+; LipSDP: Lip <= 0\.[0-7]", text
            )
        )
        == 4
    )
    nets = run("certify", tmp_path, "--json").json["nets"]
    assert all(net["lipsdp"] < 0.8 < net["bound"] + 1e-5 for net in nets)


def test_an_evaluation_without_roots_has_no_line_on_the_solver(run):
    assert "solver" not in run("evaluate", "spline-power-plant", "--limit", "20").out
    assert "solver" in run("evaluate", "impflow-power-plant", "--limit", "20").out


def test_certify_says_that_splines_need_no_bound(run):
    text = run("certify", "spline-power-plant").out
    assert text.strip() == (
        "spline-power-plant: no nets to bound, its layers are invertible by construction; "
        "golden batch reproduced"
    )


def test_certify_bounds_a_model_without_a_golden_batch(run, tmp_path):
    make(dtype=torch.float32).save_pretrained(tmp_path)
    (tmp_path / GOLDEN).unlink()
    outcome = run("certify", tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith("no golden batch to reproduce\n")


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


def test_the_version_is_that_of_the_installed_package(run):
    outcome = run("--version")
    assert (outcome.code, outcome.out) == (0, f"impflow-zoo {version('impflow_zoo')}\n")


COMMANDS = [c.name or c.callback.__name__ for c in app.registered_commands]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_in_capitals_what_is_asked_for(name, run):
    """Not by the types of Python."""
    usage, *lines = run(name, "--help").out.splitlines()
    asked = usage.partition("[OPTIONS]")[2].split()
    asked += [word for line in lines for word in re.findall(r"^  --?[\w-]+ (\S+)", line)]
    assert asked or name == "list"
    assert all(word == word.upper() for word in asked), asked


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_no_number_that_nobody_types(name, run):
    outcome = run(name, "--help")
    assert outcome.code == 0
    assert not re.search(r"\d{6}", outcome.out)


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


@pytest.mark.slow
def test_as_a_process_an_id_that_cannot_be_fetched_is_a_mistake(tmp_path):
    outcome = process(
        "evaluate", "nobody/nothing", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "cache")
    )
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err.count("\n") == 1
    assert "nobody/nothing" in outcome.err
