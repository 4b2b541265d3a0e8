"""What two processes do in the tests of errors: one fails, and the other hears of it.

Run as a script by a launcher. The processes note what they heard and go on to the next error, so
none is left waiting. In the end the second one is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

from support.command_line import command
from support.small_models import write_recipe

from impflow_zoo import evaluate, training
from impflow_zoo.data import DataError
from impflow_zoo.evaluation import scores, scoring
from impflow_zoo.evaluation.processes import together
from impflow_zoo.training import Trainer
from impflow_zoo.training.folders import only_run
from impflow_zoo.training.optimisation import Optimisation

BATCH, DISK = DataError("row 7 cannot be read"), OSError(28, "No space left on device")
MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory")
MISTAKE = TypeError("a\nmistake")
FAILURES: dict[str, tuple[int, Any, str, Exception, int]] = {
    "first batch": (1, Trainer, "batch", BATCH, 0),
    "batch": (1, Trainer, "batch", BATCH, 4),
    "step": (1, Optimisation, "_differentiate", MEMORY, 1),
    "log": (0, Trainer, "_log", DISK, 1),
    "validation": (1, scoring, "_score_batch", MISTAKE, 0),
    "model": (0, Trainer, "_keep", DISK, 0),
    "last checkpoint": (0, Trainer, "checkpoint", DISK, 1),
}


@contextmanager
def failing(rank: int, owner: Any, name: str, error: BaseException, calls: int) -> Iterator[None]:
    """Within the block, a function fails in one process when it has been called so often."""
    called, function = count(), getattr(owner, name)

    def fail(*arguments: Any, **options: Any) -> Any:
        if next(called) >= calls:
            raise error
        return function(*arguments, **options)

    with mock.patch.object(owner, name, fail) if together().rank == rank else nullcontext():
        yield


def heard(work: Callable[[], object]) -> str:
    """How something ends."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "well"


def main(folder: Path) -> None:
    """One failure after the other."""
    rank, heard_of = together().rank, {}
    recipe = write_recipe(folder / f"recipe-{rank}", training={"validate_every": 2})

    def train(name: str) -> Callable[[], object]:
        return lambda: training.train(recipe, out=folder / name, progress=False)

    for name, failure in FAILURES.items():
        with failing(*failure):
            heard_of[name] = heard(train(name))
    with only_run(folder / "folder") if rank == 0 else nullcontext():
        heard_of["folder"] = heard(train("folder"))
    heard_of["nothing"] = heard(train("nothing"))
    with failing(1, scores, "open_rows", BATCH, 0):
        rows = {"dataset": "toy:moons", "limit": 9, "processes": together()}
        heard_of["data"] = heard(lambda: evaluate(folder / "nothing", **rows))
    with failing(0, Trainer, "checkpoint", DISK, 0):
        ended = command("train", recipe, "--out", folder / "line")
    heard_of["line"] = f"{ended.code} {ended.out}{ended.err}"
    if rank == 1:
        (folder / "heard-1.json").write_text(json.dumps(heard_of))
        Trainer.step = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
    heard_of["death"] = heard(train("death"))
    (folder / "heard-0.json").write_text(json.dumps(heard_of))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
