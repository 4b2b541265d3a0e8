"""What each of several processes does in the tests of training together.

Run as a script: the environment tells the processes of each other, as launchers do. Every
process works through the same list, and writes what it found below its folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas
import torch
from support.command_line import command
from support.small_models import write_recipe

from impflow_zoo import training
from impflow_zoo.data import open_toy
from impflow_zoo.evaluation import evaluate
from impflow_zoo.evaluation.processes import together
from impflow_zoo.models import writing
from impflow_zoo.training import Trainer
from impflow_zoo.transforms.base import NotFiniteError

ROWS = 33  # does not divide by two
EXACT = {"logdet": {"mode": "exact"}, "solver": {"rtol": 1e-12, "backward_rtol": 1e-12}}
TRAINING = {"steps": 8, "batch_size": ROWS, "validate_every": 4, "log_every": 1}
TABLE = {"config": {**EXACT, "blocks": 2, "actnorm": True, "whiten": True}, "training": TRAINING}
IMAGE = {
    "config": {
        **EXACT,
        **{"kind": "image", "channels": 1, "image_size": [4, 4], "blocks": [1, 1], "width": 4},
        **{"actnorm": True, "whiten": True},
    },
    "training": {
        **TRAINING,
        "batch_size": 9,
        "flip": True,
        "validation_limit": 7,
        "optimizer": "muon",
    },
}
NOISY = {
    "config": {"net": "spectral", "logdet": {"mode": "unbiased"}},
    "training": {**TRAINING, "batch_size": 500, "warmup_steps": 0, "learning_rate": 0.02},
}


def train(folder: Path, name: str, sections: dict[str, Any], **options: Any) -> None:
    """Train from a recipe that every process may write, as it is the same."""
    recipe = write_recipe(folder / f"recipes-{together().rank}" / name, **sections)
    out = folder / name
    training.train(recipe, out=out, progress=False, **options)


def table(folder: Path) -> None:
    """In float64, to be compared with one process."""
    train(folder, "table", TABLE)


def images(folder: Path, data: Path) -> None:
    """The same for images, with kernels, Muon, ActNorm, mirrors, and rows that are left out."""
    where = {"dataset": str(data), "validation_rows": 20, "corrupt": "skip"}
    train(folder, "images", {**IMAGE, "data": where})


def noisy(folder: Path) -> None:
    """With random log-determinants, whose draws differ between processes."""
    train(folder, "noisy", NOISY)


def resumed(folder: Path) -> None:
    """Interrupted after each of the first steps."""
    train(folder, "resumed", NOISY, max_minutes=0.0)
    train(folder, "resumed", NOISY, max_minutes=0.0, resume=True)
    train(folder, "resumed", NOISY, resume=True)


def failing(folder: Path) -> None:
    """A step that only the last process cannot take."""
    step = Trainer.step

    def stumble(self: Trainer) -> dict[str, float]:
        last = self.processes.rank == self.processes.count - 1
        if self.state["step"] == 2 and last:
            self.model.log_prob = _refuse  # type: ignore[method-assign]
        try:
            return step(self)
        finally:
            vars(self.model).pop("log_prob", None)

    Trainer.step = stumble  # type: ignore[method-assign]
    train(folder, "failing", TABLE)
    Trainer.step = step  # type: ignore[method-assign]


def _refuse(x: torch.Tensor, *context: Any, **options: Any) -> torch.Tensor:
    raise NotFiniteError("inputs with NaN")


def scored(folder: Path) -> None:
    """A share of the rows each; every process knows the whole result. The last scores alone, too.

    The others do not wait for it, and it does not wait for them.
    """
    processes, name = together(), f"scored-{together().rank}.json"
    rows = {"dataset": "toy:moons", "limit": 101, "batch_size": 20}
    result = evaluate(folder / "table", **rows, processes=processes)
    (folder / name).write_text(json.dumps(result.to_dict()))
    if processes.rank == processes.count - 1:
        result = evaluate(folder / "table", **rows)
        (folder / "scored-alone.json").write_text(json.dumps(result.to_dict()))


def grouped(folder: Path) -> None:
    """The same for rows that come in groups."""
    rank = together().rank
    rows = open_toy("moons", 101).rows(range(101))
    table = pandas.DataFrame(rows, columns=["a", "b"]).assign(group=[i % 7 for i in range(101)])
    table.to_parquet(folder / f"rows-{rank}.parquet", index=False)
    result = evaluate(folder / "table", folder / f"rows-{rank}.parquet", batch_size=20)
    known = {"stderr": result.stderr, "groups": result.row_groups.tolist()}
    (folder / f"grouped-{rank}.json").write_text(json.dumps(known))


def spoken(folder: Path) -> None:
    """What the command line prints."""
    arguments = ("evaluate", folder / "noisy", "--dataset", "toy:moons", "--limit", 9, "--json")
    said = command(*arguments)
    (folder / f"said-{together().rank}.json").write_text(json.dumps([said.code, said.out]))


def forbid_writing() -> None:
    """Only the first process may write."""
    if not together().first:

        def refuse(*arguments: object) -> None:
            raise AssertionError("two processes write")

        writing._begin = refuse  # type: ignore[assignment]


def main(folder: Path, data: Path) -> None:
    """Everything, in this process."""
    torch.set_default_dtype(torch.float64)
    forbid_writing()
    table(folder)
    images(folder, data)
    failing(folder)
    scored(folder)
    grouped(folder)
    torch.set_default_dtype(torch.float32)
    noisy(folder)
    resumed(folder)
    spoken(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
