"""Kill a run at its steps of writing, resume it, and compare it with a whole run.

Run as a script, in a process without threads, which forks.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from support.killed import kill_at_every_step
from support.runs import assert_same_run, train
from support.small_models import write_recipe

from impflow_zoo import create_model
from impflow_zoo.models.filenames import CONFIG

SETTINGS = {"training": {"steps": 3, "validate_every": 1, "checkpoint_minutes": 0, "log_every": 1}}


def main(folder: Path, every: int) -> None:
    """Kill the second step of a run with its validation, model and checkpoint; resume and compare.

    Arguments:
        folder: where the runs go.
        every: how many steps of writing lie between two deaths.
    """
    torch.set_num_threads(1)
    recipe, run = write_recipe(folder / "recipe", **SETTINGS), folder / "run"
    train(recipe, folder / "whole")
    train(recipe, folder / "begun", max_minutes=0.0)

    def second_step() -> None:
        train(recipe, run, resume=True, max_minutes=0.0)

    shutil.copytree(folder / "begun", run)
    deaths = []
    for step in kill_at_every_step(second_step, every):
        deaths.append(step)
        if (run / CONFIG).exists():
            create_model(run, verify=True)
        train(recipe, run, resume=True)
        assert_same_run(run, folder / "whole")
        assert {path.name for path in run.iterdir()} == {
            path.name for path in (folder / "whole").iterdir()
        }
        shutil.rmtree(run)
        shutil.copytree(folder / "begun", run)
    print(len(deaths))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
