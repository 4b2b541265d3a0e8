"""The trainer: exact resuming, orderly ends, and every rule of its steps."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.runs import assert_same_run, log, timeless, train, trainer
from support.small_models import make, write_recipe
from torch import Tensor

from impflow_zoo import (
    ImpFlow,
    NumericalWarning,
    ResFlow,
    Solver,
    SolverError,
    create_model,
    evaluate,
)
from impflow_zoo.data import TOYS, DataError, TableSource, open_source, open_toy
from impflow_zoo.facts import read_log
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.folder import CHECKPOINT, LOG, RECIPE, WEIGHTS, ModelFolder
from impflow_zoo.numerics.logdet import NoContractionError
from impflow_zoo.processes import Processes
from impflow_zoo.publishing import staging
from impflow_zoo.recipe import TrainingSettings, read_recipe
from impflow_zoo.registry import locate
from impflow_zoo.scoring import Score, score
from impflow_zoo.training import Trainer
from impflow_zoo.training.optimisation import learning_rate
from impflow_zoo.training.splits import open_splits
from impflow_zoo.transforms.base import NotFiniteError

# Every kind of state a run has: fresh probes, averages, validations, lines of the log half due.
RUN = {
    "config": {"logdet": {"mode": "unbiased"}, "rounding": [0.1, 0.0]},
    "training": {
        "steps": 20,
        "log_every": 5,
        "validate_every": 6,
        "checkpoint_minutes": 0,
        "weight_decay": 0.1,
    },
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, Path]:
    """A recipe and the folder of its whole run."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder / "recipe", **RUN)
    train(recipe, folder / "whole")
    return recipe, folder / "whole"


# ---------------------------------------------------------------------------------- resuming

KILLED = """
import os, signal, sys
import torch
from impflow_zoo import training

def checkpoint(self, write=training.Trainer.checkpoint):
    if self.state["step"] == 10:  # its log line is written, its checkpoint is not
        os.kill(os.getpid(), signal.SIGKILL)
    write(self)

training.Trainer.checkpoint = checkpoint
torch.set_num_threads(int(sys.argv[3]))
training.train(sys.argv[1], out=sys.argv[2], progress=False)
"""


KILLED_EARLY = """
import os, signal, sys
import torch
from impflow_zoo import training
from impflow_zoo.training import run

def end(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def end_at_step_3(self, step=training.Trainer.step):
    if self.state["step"] == 3:
        end()
    return step(self)

if "{moment}" == "log":  # nothing is written but the log
    run.write_whole = end
else:
    training.Trainer.step = end_at_step_3
torch.set_num_threads(int(sys.argv[3]))
training.train(sys.argv[1], out=sys.argv[2], progress=False)
"""


def test_a_killed_run_goes_on_as_if_nothing_had_happened(uninterrupted, tmp_path):
    recipe, whole = uninterrupted
    arguments = [str(recipe), str(tmp_path), str(torch.get_num_threads())]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert log(tmp_path)[-1]["step"] == 10
    torch.manual_seed(99)
    state = train(recipe, tmp_path, resume=True)
    assert state["step"] == 20
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_ends_a_run_in_order(number, uninterrupted, tmp_path, monkeypatch):
    recipe, whole = uninterrupted
    before = signal.getsignal(number)
    step = Trainer.step

    def interrupted(self: Trainer) -> dict[str, float]:
        if self.state["step"] == 7:
            os.kill(os.getpid(), number)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        assert train(recipe, tmp_path)["step"] == 8
    assert signal.getsignal(number) is before
    assert train(recipe, tmp_path, resume=True)["step"] == 20
    assert_same_run(tmp_path, whole)


def test_time_ends_a_run_in_order(uninterrupted, tmp_path):
    recipe, whole = uninterrupted
    assert train(recipe, tmp_path, max_minutes=0.0)["step"] == 1
    train(recipe, tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


def test_a_finished_run_has_nothing_to_resume(uninterrupted):
    recipe, whole = uninterrupted
    before = (whole / WEIGHTS).read_bytes(), timeless(log(whole))
    assert train(recipe, whole, resume=True)["step"] == 20
    assert ((whole / WEIGHTS).read_bytes(), timeless(log(whole))) == before


def test_the_log_says_what_happened(uninterrupted):
    _, whole = uninterrupted
    header, *lines = log(whole)
    assert header["hardware"].endswith(("thread", "threads"))
    steps = [line for line in lines if "log_density" in line]
    assert [line["step"] for line in steps] == [5, 10, 15, 20]
    assert [line["rows_seen"] for line in steps] == [5 * 32, 10 * 32, 15 * 32, 20 * 32]
    assert [line["step"] for line in lines if "validation" in line] == [6, 12, 18, 20]
    for line in steps:
        assert line.keys() == {
            "step",
            "rows_seen",
            "seconds",
            "log_density",
            "gradient_norm",
            "learning_rate",
            "solver_steps",
            "unconverged",
            "rows_per_second",
            "skipped",
            "left_out",
        }
        assert line["rows_per_second"] > 0
        assert line["solver_steps"] > 0
        assert line["unconverged"] == line["skipped"] == line["left_out"] == 0


def test_a_run_makes_a_model_that_loads(uninterrupted):
    recipe, whole = uninterrupted
    model = create_model(whole, verify=True)
    assert (whole / RECIPE).read_bytes() == recipe.read_bytes()
    validated = [line["validation"] for line in log(whole) if "validation" in line]
    rows = open_source("toy:moons", "validation")
    exact = create_model(whole, logdet="exact")
    found = score(exact, rows, seed=0, limit=50).log_prob.mean()
    assert float(found) == pytest.approx(max(validated), abs=0.3)  # theirs are unbiased draws
    assert model.config.rounding == (0.1, 0.0)


# -------------------------------------------------------------------------------- single steps


def parameters(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def constant(run: Trainer, value: float) -> Callable[[Tensor], Tensor]:
    """A log-density whose gradient is `value` in every parameter."""

    def log_prob(x: Tensor, *_: object, **__: object) -> Tensor:
        return value * sum(p.sum() for p in run.model.parameters()).expand(len(x))

    return log_prob


def test_weight_decay_shrinks_weights_whatever_the_gradient(tmp_path, monkeypatch):
    run = trainer(tmp_path, weight_decay=0.5, learning_rate=0.1)
    monkeypatch.setattr(run.model, "log_prob", constant(run, 0.0))
    before = parameters(run.model)
    for _ in range(3):
        run.step()
    for name, p in run.model.named_parameters():
        left = (1 - 0.1 * 0.5) ** 3 if p.dim() > 1 else 1.0  # biases and scales do not decay
        torch.testing.assert_close(p.detach(), before[name] * left, msg=name)


def test_gradients_are_clipped_and_their_true_norm_is_logged(tmp_path, monkeypatch):
    run = trainer(tmp_path, clip_norm=0.5)
    monkeypatch.setattr(run.model, "log_prob", constant(run, 3.0))
    size = sum(p.numel() for p in run.model.parameters())
    assert run.step()["gradient_norm"] == pytest.approx(3.0 * size**0.5, rel=1e-5)
    applied = torch.cat([p.grad.flatten() for p in run.model.parameters()])
    assert float(applied.norm()) == pytest.approx(0.5, rel=1e-4)


def test_the_average_follows_the_weights_and_forgets_the_first(tmp_path):
    run = trainer(tmp_path, ema_decay=0.25, learning_rate=0.05)
    run.step()
    expected = parameters(run.model)  # the first step has no past to average
    for decay in (2 / 11, 3 / 12, 0.25, 0.25):
        run.step()
        now = parameters(run.model)
        expected = {k: decay * v + (1 - decay) * now[k] for k, v in expected.items()}
    for name, p in run.averaged.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], msg=name)
    assert any(not torch.equal(now[k], v) for k, v in expected.items())


def test_the_learning_rate_warms_up_and_falls_by_a_cosine():
    settings = TrainingSettings(
        steps=110, learning_rate=2.0, final_learning_rate=1.0, warmup_steps=10
    )
    rates = [learning_rate(settings, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * k for k in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.5)
    assert rates[-1] == pytest.approx(1.0, abs=1e-3)
    assert sorted(rates[10:], reverse=True) == rates[10:]
    flat = TrainingSettings(learning_rate=2.0, final_learning_rate=None, warmup_steps=0)
    assert [learning_rate(flat, step) for step in (0, 5000)] == [2.0, 2.0]


def fail(error: Exception) -> Callable[[Tensor], Tensor]:
    def log_prob(x: Tensor, *_: object, **__: object) -> Tensor:
        raise error

    return log_prob


UNUSABLE = {
    "NaN": lambda x, *_, **__: torch.full((len(x),), math.nan, requires_grad=True),
    "infinity": lambda x, *_, **__: torch.full((len(x),), math.inf, requires_grad=True),
    "no root": fail(SolverError("no root")),
    "no contraction": fail(NoContractionError("det <= 0")),
    "overflow": fail(NotFiniteError("inputs hold NaN")),
}


@pytest.mark.parametrize("log_prob", UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_step_is_counted_and_not_applied(log_prob, tmp_path, monkeypatch):
    run = trainer(tmp_path, steps=2, weight_decay=0.1)
    run.step()
    before, average = parameters(run.model), parameters(run.averaged)
    with monkeypatch.context() as patch:
        patch.setattr(run.model, "log_prob", log_prob)
        patch.setattr(run, "validate", lambda: None)
        state = run.run()
    assert state["skipped"] == 2
    for now, then in ((run.model, before), (run.averaged, average)):
        assert all(torch.equal(p, then[name]) for name, p in now.named_parameters())
    assert log(tmp_path)[-1]["log_density"] is None
    assert log(tmp_path)[-1]["skipped"] == 2


def test_a_gradient_that_is_not_finite_is_not_applied(tmp_path, monkeypatch):
    run = trainer(tmp_path)
    before = parameters(run.model)
    monkeypatch.setattr(
        run.model, "log_prob", lambda x, *_, **__: (constant(run, 1.0)(x) * 0).abs().sqrt()
    )  # the value is 0, its derivative is not finite
    run.step()
    assert run.state["skipped"] == 1
    assert all(torch.equal(p, before[name]) for name, p in run.model.named_parameters())


def test_roots_out_of_reach_are_counted_and_training_goes_on(tmp_path):
    slow = Solver("fixed_point", max_steps=2)
    run = trainer(tmp_path, make(blocks=1, solver=slow, dtype=torch.float32))
    figures = run.step()  # warnings are errors here: they have to stay within
    assert 0 < figures["unconverged"] <= 1
    assert figures["solver_steps"] == 2
    assert run.state["skipped"] == 0


def test_every_pass_sees_every_row_once(tmp_path):
    run = trainer(tmp_path, batch_size=25)
    passes = [torch.cat([run.batch(4 * k + i, None) for i in range(4)]) for k in range(2)]
    everything = run.batches.rows.rows(range(100)).float()
    for seen in passes:
        assert torch.equal(seen.sort(dim=0).values, everything.sort(dim=0).values)
    assert not torch.equal(*passes)


# --------------------------------------------------------------------------------- validation


@pytest.fixture
def scripted(monkeypatch) -> Callable[[list[float]], list[dict[str, Tensor]]]:
    """Make validations find the values given, one after the other; the weights they saw."""

    def script(values: list[float]) -> list[dict[str, Tensor]]:
        left, seen = iter(values), []

        def found(model: torch.nn.Module, *_: object, **__: object) -> Score:
            seen.append(parameters(model))
            return Score({"log_prob": torch.tensor([next(left)])})

        monkeypatch.setattr("impflow_zoo.training.trainer.score", found)
        return seen

    return script


def test_the_best_weights_are_kept(tmp_path, scripted):
    seen = scripted([1.0, 3.0, math.nan, 2.0])
    run = trainer(tmp_path, steps=4, validate_every=1)
    state = run.run()
    assert (state["best"], state["best_step"], state["waited"]) == (3.0, 2, 2)
    kept = ImpFlow.from_pretrained(tmp_path)
    assert all(torch.equal(p, seen[1][name]) for name, p in kept.named_parameters())
    assert not all(torch.equal(p, seen[3][name]) for name, p in kept.named_parameters())


@pytest.mark.parametrize("error", [SolverError, NoContractionError, NotFiniteError])
def test_a_validation_that_fails_is_noted_and_training_goes_on(error, tmp_path, monkeypatch):
    run = trainer(tmp_path, steps=3, validate_every=1)
    good, calls = score, itertools.count()

    def bad_at_first(*arguments, **options):
        if next(calls) == 0:
            raise error("no root")
        return good(*arguments, **options)

    monkeypatch.setattr("impflow_zoo.training.trainer.score", bad_at_first)
    with pytest.warns(NumericalWarning, match="validation failed: no root"):
        state = run.run()
    assert (state["step"], state["best"] is None) == (3, False)
    values = [line["validation"] for line in log(tmp_path) if "validation" in line]
    assert values[0] is None
    assert len(values) == 3
    assert [value for *_, value in read_log(tmp_path / "log.jsonl").curve] == [
        round(value, 5) for value in values[1:]
    ]


def test_an_error_of_one_process_reaches_the_others(monkeypatch):
    """They would wait for its share for ever."""
    model, rows = make(blocks=1), open_toy("moons", 10)

    class Two(Processes):
        def gather(self, own):
            return [SolverError("elsewhere"), own]

    with pytest.raises(SolverError, match="elsewhere"):
        score(model, rows, seed=0, processes=Two(rank=1, count=2))


def test_patience_ends_a_run(tmp_path, scripted):
    scripted([1.0, 3.0, 2.0, 2.5, 9.0])
    run = trainer(tmp_path, steps=50, validate_every=2, patience=2)
    assert run.run()["step"] == 8
    assert json.loads(json.dumps(run.state))["best"] == 3.0


# ------------------------------------------------------------------------ where a run starts


def test_a_run_can_start_from_the_weights_of_a_model(tmp_path):
    start = make(blocks=1)
    start.save_pretrained(tmp_path / "start")
    run = trainer(tmp_path / "run", ImpFlow(start.config))
    run.prepare(ModelFolder.open(tmp_path / "start"))
    for module in (run.model, run.averaged):
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, start.state_dict()[key].to(tensor.dtype)), key
            assert tensor.dtype != torch.float64
    assert math.isfinite(run.step()["log_density"])


def test_a_run_can_start_from_a_model_of_the_zoo(tmp_path):
    start = create_model("impflow-power-plant")
    run = Trainer(
        ImpFlow(start.config),
        TrainingSettings(),
        *(TableSource("rows", torch.randn(9, 5, dtype=torch.float64), list("abcde")),) * 2,
        tmp_path,
        progress=False,
    )
    run.prepare(ModelFolder.open(locate("impflow-power-plant")))
    own = dict(run.model.named_parameters())
    assert all(torch.equal(own[name], p) for name, p in start.named_parameters())


def test_validation_rows_come_off_the_end(tmp_path):
    recipe = write_recipe(tmp_path, data={"validation_rows": 3, "validation": None})
    rows, held_out = open_splits(read_recipe(recipe), None)
    everything = open_source("toy:moons", "train").rows(range(10_000))
    assert torch.equal(rows.rows(range(len(rows))), everything[:-3])
    assert torch.equal(held_out.rows(range(len(held_out))), everything[-3:])


def test_a_run_learns(tmp_path):
    """In two hundred steps most of the way from the best Gaussian to the truth, not beyond."""
    settings = {"steps": 200, "batch_size": 200, "learning_rate": 1e-2, "ema_decay": 0.9}
    recipe = write_recipe(
        tmp_path,
        model="ResFlow",
        config={"blocks": 4, "hidden_features": [32, 32]},
        training={**settings, "validation_limit": 2000, "validate_every": 200},
    )
    best = train(recipe, tmp_path / "run")["best"]
    covariance = open_toy("moons").rows(range(10_000)).T.cov()
    gaussian = -0.5 * float(torch.logdet(2 * math.pi * math.e * covariance))
    truth = -TOYS["moons"].entropy
    assert gaussian + 0.6 * (truth - gaussian) < best < truth + 0.05


# ---------------------------------------------------------------------------------- refusals


def refused(folder: Path, message: str, error: type[Exception] = ModelError, **options: Any):
    sections = {k: options.pop(k) for k in ("config", "data", "training", "model") if k in options}
    recipe = write_recipe(folder / "recipe", **sections)
    with pytest.raises(error, match=message) as caught:
        train(recipe, options.pop("out", folder / "run"), **options)
    assert "\n" not in str(caught.value)


def test_nothing_is_overwritten(uninterrupted, tmp_path):
    _, whole = uninterrupted
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    refused(tmp_path, "holds a run already: --resume it, or choose another --out", out=whole)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before
    make().save_pretrained(tmp_path / "model")
    refused(tmp_path, "holds a model.safetensors of something else", out=tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "recipe.yaml", "golden.safetensors"])
def test_files_of_something_else_are_not_overwritten(name, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    refused(tmp_path, f"holds a {name} of something else: choose", out=tmp_path / "mine")
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["mine"]


def test_a_file_is_no_folder_for_a_run(tmp_path):
    (tmp_path / "file").write_text("")
    refused(tmp_path, "is a file: --out takes a folder", out=tmp_path / "file")


def test_another_seed_is_not_put_into_the_user_s_recipe(tmp_path):
    recipe = write_recipe(tmp_path)
    before = recipe.read_text()
    with pytest.raises(ModelError, match=r"holds a recipe.yaml of something else: choose another"):
        train(recipe, tmp_path, seed=3)
    assert recipe.read_text() == before


def test_what_a_run_left_before_its_first_checkpoint_is_no_hindrance(tmp_path):
    recipe = write_recipe(tmp_path / "recipe")
    (tmp_path / "run").mkdir()
    for name in (LOG, "recipe.yaml"):
        (tmp_path / "run" / name).write_text("left")
    assert train(recipe, tmp_path / "run")["step"] == 4


@pytest.mark.parametrize("moment", ["never started", "log", "step 3"])
def test_resuming_before_the_first_checkpoint_starts_from_the_beginning(
    moment, uninterrupted, tmp_path
):
    recipe, whole = uninterrupted
    if moment != "never started":
        killed = KILLED_EARLY.format(moment=moment)
        arguments = [str(recipe), str(tmp_path), str(torch.get_num_threads())]
        ended = subprocess.run([sys.executable, "-c", killed, *arguments], check=False)
        assert ended.returncode == -signal.SIGKILL
    if (tmp_path / CHECKPOINT).exists():
        assert moment == "step 3"
        state = train(recipe, tmp_path, resume=True)
    else:
        with pytest.warns(UserWarning, match="no .*checkpoint.*: training starts from the beginn"):
            state = train(recipe, tmp_path, resume=True)
    assert state["step"] == 20
    assert_same_run(tmp_path, whole)


def test_a_run_from_weights_needs_them_again_before_its_first_checkpoint(uninterrupted, tmp_path):
    recipe, whole = uninterrupted
    train(recipe, tmp_path / "whole", init_from=str(whole), max_minutes=0.0)
    train(recipe, tmp_path / "cut", init_from=str(whole), max_minutes=0.0)
    (tmp_path / "cut" / CHECKPOINT).unlink()
    with pytest.raises(ModelError, match="had started from .* name the model again with --init-"):
        train(recipe, tmp_path / "cut", resume=True)
    with pytest.warns(UserWarning, match="starts from the beginning"):
        train(recipe, tmp_path / "cut", resume=True, init_from=str(whole), max_minutes=0.0)
    own, other = (load_file(tmp_path / name / CHECKPOINT) for name in ("cut", "whole"))
    assert all(torch.equal(tensor, other[key]) for key, tensor in own.items())


def test_another_recipe_s_run_is_not_begun_anew(uninterrupted, tmp_path):
    recipe, _ = uninterrupted
    train(recipe, tmp_path, max_minutes=0.0)
    (tmp_path / CHECKPOINT).unlink()
    refused(tmp_path, "was trained with another recipe", out=tmp_path, resume=True)


def test_the_first_checkpoint_comes_within_a_minute(tmp_path, monkeypatch):
    run = trainer(tmp_path, steps=10, checkpoint_minutes=30.0)
    clock, steps = iter(range(0, 10_000, 15)), []
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(run, "checkpoint", lambda: steps.append(run.state["step"]))
    monkeypatch.setattr(run, "step", lambda: {"rows": 1, "seconds": 1.0, "log_density": 0.0})
    monkeypatch.setattr(run, "validate", lambda: None)
    run.run()
    assert steps == [0, 4, 10]  # at the start, after 60 seconds, at the end


def test_resuming_and_starting_from_a_model_exclude_each_other(uninterrupted, tmp_path):
    _, whole = uninterrupted
    refused(tmp_path, "leave --init-from out", out=whole, resume=True, init_from="x/y")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_damaged_checkpoint_is_refused(keep, uninterrupted, tmp_path):
    recipe, whole = uninterrupted
    content = (whole / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ModelError, match="checkpoint.safetensors is damaged"):
        train(recipe, tmp_path, resume=True)


@pytest.mark.parametrize(
    "change",
    [{"model": "ResFlow"}, {"config": {"hidden_features": [9]}}, {"config": {"blocks": 2}}],
    ids=str,
)
def test_a_checkpoint_of_another_recipe_is_refused(change, uninterrupted, tmp_path):
    _, whole = uninterrupted
    (tmp_path / CHECKPOINT).write_bytes((whole / CHECKPOINT).read_bytes())
    refused(tmp_path, "is of another recipe", out=tmp_path, resume=True, **change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"training": {"steps": 8}}, "training.steps"),
        ({"training": {"learning_rate": 0.5}}, "training.learning_rate"),
        ({"data": {"dataset": "toy:rings"}}, "data.dataset"),
        ({"config": {"lipschitz": 0.5}}, "config.lipschitz"),
        ({"model": "ResFlow"}, "model"),
        ({"training": {"steps": 8, "clip_norm": 2.0}}, "training.steps, training.clip_norm"),
    ],
    ids=str,
)
def test_a_run_goes_on_with_its_own_recipe_alone(change, named, tmp_path):
    settings = {"training": {"validate_every": 1}}
    train(write_recipe(tmp_path / "recipe", **settings), tmp_path / "run", max_minutes=0.0)
    change = {**change, "training": {**settings["training"], **change.get("training", {})}}
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    words = rf"with another recipe \({named}\): resume with .*/run/recipe.yaml, or .*--init-from"
    refused(tmp_path, words, resume=True, **change)
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before


def write_moons(folder: Path, n: int = 200, columns: str = "a,b") -> Path:
    """A table with the splits train and validation; its columns may come the other way round."""
    folder.mkdir()
    rows = open_toy("moons", n, 0).rows(range(n))
    if columns == "b,a":
        rows = rows.flip(1)
    for split in ("train", "validation"):
        lines = [columns, *(f"{x},{y}" for x, y in rows.tolist())]
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return folder


def test_columns_that_a_recipe_does_not_name_are_those_of_the_data(tmp_path):
    """Else a file with others, or in another order, would be scored as if it were the same."""
    recipe = write_recipe(tmp_path / "recipe", data={"dataset": None})
    data = write_moons(tmp_path / "one")
    train(recipe, tmp_path / "run", data=str(data))
    assert create_model(tmp_path / "run").config.columns == ("a", "b")
    value = evaluate(tmp_path / "run", str(data), "train").value
    turned = write_moons(tmp_path / "turned", columns="b,a")
    assert evaluate(tmp_path / "run", str(turned), "train").value == pytest.approx(value)
    with pytest.raises(DataError, match="no column a, there are: x, b"):
        evaluate(tmp_path / "run", str(write_moons(tmp_path / "other", columns="x,b")), "train")
    recipe = recipe.rename(tmp_path / "run" / "recipe.yaml")
    staging.stage(tmp_path / "run", tmp_path / "run", data=str(data), split="train")


def test_a_run_goes_on_with_the_rows_it_had(tmp_path):
    for name, n in (("one", 200), ("other", 150)):
        write_moons(tmp_path / name, n)
    write_moons(tmp_path / "turned", columns="b,a")
    recipe = write_recipe(tmp_path / "recipe", data={"dataset": None})
    train(recipe, tmp_path / "run", data=str(tmp_path / "one"), max_minutes=0.0)
    for other in ("other", "turned"):
        with pytest.raises(ModelError, match="was trained on other rows than these: .* --data"):
            train(recipe, tmp_path / "run", data=str(tmp_path / other), resume=True)
    assert train(recipe, tmp_path / "run", data=str(tmp_path / "one"), resume=True)["step"] == 4


def test_weights_of_another_model_are_no_start(tmp_path):
    make(ResFlow, blocks=1, hidden_features=(8,)).save_pretrained(tmp_path / "other")
    refused(tmp_path, "tensors .*missing", init_from=str(tmp_path / "other"))
    assert not (tmp_path / "run").exists()


NO_DATA = {
    "no data set": ({"dataset": None}, {}, "names no data set: give a folder .*--data"),
    "unknown toy": ({"dataset": "toy:square"}, {}, "unknown toy 'square'"),
    "unknown split": ({"train": "training"}, {}, "has no split 'training', choose one of: train"),
    "too many held out": ({"validation_rows": 10_000}, {}, "validation_rows=10000: .* 10000 rows"),
    "nothing to validate on": ({"validation": None}, {}, "names no rows that decide .*split, or"),
    "other columns": ({}, {"features": 3}, r"rows of shape \[2\], the model takes \[3\]"),
}


@pytest.mark.parametrize(("data", "config", "message"), NO_DATA.values(), ids=NO_DATA)
def test_data_that_do_not_fit_are_refused(data, config, message, tmp_path):
    refused(tmp_path, message, DataError, data=data, config=config)
    assert not (tmp_path / "run").exists()


def test_a_constant_column_is_refused(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("a,b\n" + "1,2\n3,2\n" * 4)
    data = {"dataset": str(file), "validation_rows": 1}
    refused(tmp_path, r"columns \['b'\] are constant", data=data)
    refused(tmp_path, "at least two are needed", data={**data, "validation_rows": 7})


def test_contexts_without_names_are_refused(tmp_path):
    refused(tmp_path, "this model's contexts have no names", config={"context_features": 2})


def test_one_file_needs_rows_to_be_held_back(tmp_path):
    (tmp_path / "own.csv").write_text("a,b\n" + "1.5,2\n3,4\n" * 20)
    message = "has no split 'validation', .*; or set data.validation_rows in the recipe"
    with pytest.raises(DataError, match=message):
        train(write_recipe(tmp_path), tmp_path / "run", data=str(tmp_path / "own.csv"))


def test_data_on_disk_take_the_place_of_a_toy(tmp_path):
    for split in ("train", "validation"):
        lines = ["a,b", *(f"{x},{y}" for x, y in open_toy("moons", 60, 0).rows(range(60)).tolist())]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    recipe = write_recipe(tmp_path / "recipe", data={"train_rows": 500})
    assert train(recipe, tmp_path / "run", data=str(tmp_path))["data_rows"] == 60
    recipe = write_recipe(recipe.parent, data={"train_rows": 500, "dataset": str(tmp_path)})
    with pytest.raises(DataError, match="train_rows is for toys"):
        train(recipe, tmp_path / "other")
