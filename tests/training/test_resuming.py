"""Runs that are interrupted, and go on as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from support import killed_runs
from support.forks import Forked
from support.image_sets import image_set, pictures
from support.runs import assert_same_run, log, timeless, train, trainer
from support.small_models import write_image_recipe, write_recipe

from impflow_zoo import create_model
from impflow_zoo.data import open_source
from impflow_zoo.evaluation import scoring
from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.evaluation.scoring import score
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CHECKPOINT, RECIPE, WEIGHTS
from impflow_zoo.training import Trainer
from impflow_zoo.training.facts import TrainingFacts

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
    arguments = [recipe, tmp_path, torch.get_num_threads()]
    killed = Forked("-c", KILLED, *arguments).ended()
    assert killed.returncode == -signal.SIGKILL
    assert log(tmp_path)[-1]["step"] == 10
    torch.manual_seed(99)
    state = train(recipe, tmp_path, resume=True)
    assert state["step"] == 20
    assert_same_run(tmp_path, whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_goes_on_wherever_it_was_killed_while_it_wrote(every, tmp_path):
    """Its model, its checkpoint, its log and the rest."""
    ended = Forked(killed_runs.__file__, tmp_path, every).ended()
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert int(ended.stdout) * every > 40  # steps of a log, a model, facts and a checkpoint


@pytest.mark.parametrize("kind", ["table", "images"])
def test_both_optimizers_of_a_run_with_muon_go_on(kind, tmp_path):
    muon = {"optimizer": "muon"}
    if kind == "table":
        recipe = write_recipe(tmp_path, training=muon)
    else:
        recipe = write_image_recipe(tmp_path, image_set(tmp_path, pictures(8)), training=muon)
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "parts", max_minutes=0.0)
    assert any(name.startswith("muon") for name in load_file(tmp_path / "parts" / CHECKPOINT))
    train(recipe, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("step", [6, 20])
def test_a_signal_ends_a_long_validation_which_is_done_later(
    step, uninterrupted, tmp_path, monkeypatch
):
    recipe, whole = uninterrupted
    validate = Trainer.validate

    def interrupted(self: Trainer) -> None:
        if self.state["step"] == step:
            patch.setattr(scoring, "_BATCH_SIZE", 10)  # of 50 rows
            os.kill(os.getpid(), signal.SIGINT)
        validate(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", interrupted)
        assert train(recipe, tmp_path)["step"] == step
    assert [line["step"] for line in log(tmp_path) if "validation" in line][-1:] != [step]
    train(recipe, tmp_path, resume=True)
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


def test_a_run_resumed_on_another_machine_names_both(uninterrupted, tmp_path, monkeypatch):
    recipe, _ = uninterrupted
    train(recipe, tmp_path, max_minutes=0.0)
    first = log(tmp_path)[0]["hardware"]
    monkeypatch.setattr(Processes, "description", "another machine")
    train(recipe, tmp_path, resume=True)
    assert TrainingFacts.read(tmp_path).hardware == f"{first} and another machine"


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


@pytest.mark.parametrize(
    "moment", ["never started", "log", pytest.param("step 3", marks=pytest.mark.slow)]
)
def test_resuming_before_the_first_checkpoint_starts_from_the_beginning(
    moment, uninterrupted, tmp_path
):
    recipe, whole = uninterrupted
    if moment != "never started":
        killed = KILLED_EARLY.format(moment=moment)
        arguments = [recipe, tmp_path, torch.get_num_threads()]
        ended = Forked("-c", killed, *arguments).ended()
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
    with pytest.raises(ModelError, match="started from .* again with --init-"):
        train(recipe, tmp_path / "cut", resume=True)
    with pytest.warns(UserWarning, match="starts from the beginning"):
        train(recipe, tmp_path / "cut", resume=True, init_from=str(whole), max_minutes=0.0)
    own, other = (load_file(tmp_path / name / CHECKPOINT) for name in ("cut", "whole"))
    assert all(torch.equal(tensor, other[key]) for key, tensor in own.items())


def test_another_recipe_s_run_is_not_begun_anew(uninterrupted, tmp_path):
    recipe, _ = uninterrupted
    train(recipe, tmp_path, max_minutes=0.0)
    (tmp_path / CHECKPOINT).unlink()
    with pytest.raises(ModelError, match="was trained with another recipe"):
        train(write_recipe(tmp_path / "recipe"), tmp_path, resume=True)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_that_lost_its_checkpoint_keeps_its_model(uninterrupted, tmp_path):
    recipe, whole = uninterrupted
    run = shutil.copytree(whole, tmp_path / "run")
    (run / CHECKPOINT).unlink()
    before = contents(run)
    with pytest.raises(ModelError, match="weights but no checkpoint.safetensors"):
        train(recipe, run, resume=True)
    assert contents(run) == before


def test_a_refused_run_keeps_its_recipe(uninterrupted, tmp_path):
    recipe, _ = uninterrupted
    train(recipe, tmp_path, seed=5, max_minutes=0.0)
    before = contents(tmp_path)
    with pytest.raises(ModelError, match="was started with seed 5"):
        train(recipe, tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_a_card_that_was_added_to_the_run_stays(tmp_path):
    recipe = write_recipe(tmp_path, card={})
    train(recipe, tmp_path / "run", max_minutes=0.0)
    own = tmp_path / "run" / RECIPE
    own.write_text(
        f"# mine\n{own.read_text()}card: {{summary: Small.}}\n".replace("card: {}\n", "")
    )
    text = own.read_text()
    train(recipe, tmp_path / "run", resume=True)
    assert own.read_text() == text
    longer = f"{recipe.read_text()}stages: [{{}}, {{steps: 2}}]\n"
    (tmp_path / "longer.yaml").write_text(longer)
    with pytest.raises(ModelError, match="has a card, which would be lost: copy it"):
        train(tmp_path / "longer.yaml", tmp_path / "run", resume=True)
    with pytest.raises(ModelError, match="was started with seed 0"):
        train(recipe, tmp_path / "run", resume=True, seed=1)
    assert own.read_text() == text


def test_the_first_checkpoint_comes_within_a_minute(tmp_path, monkeypatch):
    run = trainer(tmp_path, steps=10, checkpoint_minutes=30.0)
    clock, steps = iter(range(0, 10_000, 15)), []
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(run, "checkpoint", lambda: steps.append(run.state["step"]))
    monkeypatch.setattr(run, "step", lambda: {"rows": 1, "seconds": 1.0, "log_density": 0.0})
    monkeypatch.setattr(run, "validate", lambda: None)
    run.run()
    assert steps == [0, 4, 10]  # at the start, after 60 seconds, at the end
