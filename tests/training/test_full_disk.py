"""The disk fills up while a checkpoint is written: the last good one stays, and a run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.image_sets import image_set, pictures
from support.runs import assert_same_run, log, train
from support.small_models import write_image_recipe

from impflow_zoo.models.filenames import CHECKPOINT
from impflow_zoo.training.checkpoint import read_checkpoint

pytest.importorskip("resource")

# The kernel itself refuses what is written past a size, in the middle of a write.
FILLED = """
import os, resource, sys
import torch
from impflow_zoo import cli
from impflow_zoo.training import trainer

recipe, out, share, threads = sys.argv[1:]
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

def checkpoint(self, write=trainer.Trainer.checkpoint):
    if self.state["step"] == 5:
        size = (self.folder / trainer.CHECKPOINT).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(float(share) * size), hard))
    write(self)

trainer.Trainer.checkpoint = checkpoint
torch.set_num_threads(int(threads))
sys.argv = ["impflow-zoo", "train", recipe, "--out", out]
cli.main()
"""
SETTINGS = {"checkpoint_minutes": 0, "log_every": 2, "steps": 8, "validate_every": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe of images and the folder of its whole run."""
    folder = tmp_path_factory.mktemp("whole")
    dataset = image_set(folder / "set", pictures(8))
    recipe = write_image_recipe(folder, dataset, training=SETTINGS)
    train(recipe, folder / "run")
    return recipe, folder / "run"


def fill(recipe: Path, out: Path, share: float) -> subprocess.CompletedProcess[str]:
    """Train in a process that can write a share of its fifth checkpoint and no more."""
    arguments = [str(recipe), str(out), str(share), str(torch.get_num_threads())]
    return subprocess.run(
        [sys.executable, "-c", FILLED, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_run_goes_on_from_the_last_checkpoint_that_was_written(share, whole, tmp_path):
    recipe, reference = whole
    run = fill(recipe, tmp_path, share)
    assert run.returncode == 2, run.stderr
    last = run.stderr.splitlines()[-1]
    assert last == f"impflow-zoo: [Errno 27] File too large: '{tmp_path / CHECKPOINT}'"
    assert "Traceback" not in run.stderr
    assert log(tmp_path)[-1]["step"] == 4
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []
    assert step_of(tmp_path, recipe) == 4
    assert train(recipe, tmp_path, resume=True)["step"] == 8
    assert_same_run(tmp_path, reference)


def step_of(folder: Path, recipe: Path) -> int:
    """The step of the checkpoint in a folder, which has to load."""
    from impflow_zoo.models.classes import model_class
    from impflow_zoo.training import Trainer
    from impflow_zoo.training.recipe import read_recipe
    from impflow_zoo.training.run import open_splits

    settings = read_recipe(recipe)
    model = model_class(settings.model)(settings.config)
    run = Trainer(model, settings.training, *open_splits(settings, None), folder, progress=False)
    optimisation = run.optimisation
    state = read_checkpoint(folder / CHECKPOINT, optimisation.modules, optimisation.optimizers)
    return state["step"]
