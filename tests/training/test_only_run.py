"""One run in a folder at a time, whether threads or processes start the second one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.forks import Forked
from support.runs import assert_same_run, train
from support.small_models import write_recipe

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CHECKPOINT, LOCK
from impflow_zoo.training import Trainer

REFUSED = "another run trains in .* another --out"
STOPPED = """
import sys, time
from impflow_zoo import training

def stop(self):
    print("training", flush=True)
    time.sleep(600)

training.Trainer.step = stop
training.train(sys.argv[1], out=sys.argv[2], progress=False)
"""


@contextmanager
def run_of_another_process(recipe: Path, out: Path) -> Iterator[None]:
    """A run that stands still before its first step, until it is killed."""
    process, end = Forked("-c", STOPPED, recipe, out), time.monotonic() + 60
    try:
        while process.out != "training\n":
            assert time.monotonic() < end, "it did not begin"
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.ended()


def test_a_run_of_another_process_keeps_its_folder_until_it_is_killed(tmp_path):
    recipe, out = write_recipe(tmp_path / "recipe"), tmp_path / "out"
    with run_of_another_process(recipe, out):
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        for resume in (False, True):
            with pytest.raises(ModelError, match=REFUSED):
                train(recipe, out, resume=resume)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert (out / LOCK).exists()
    train(recipe, out, resume=True)
    train(recipe, tmp_path / "whole")
    assert_same_run(out, tmp_path / "whole")
    assert not (out / LOCK).exists()


def test_a_run_of_another_thread_keeps_its_folder(tmp_path, monkeypatch):
    recipe, out = write_recipe(tmp_path / "recipe"), tmp_path / "out"
    begun, go_on, step = threading.Event(), threading.Event(), Trainer.step

    def wait(self: Trainer) -> dict[str, float]:
        begun.set()
        assert go_on.wait(timeout=120)
        return step(self)

    monkeypatch.setattr(Trainer, "step", wait)
    first = threading.Thread(target=train, args=(recipe, out))
    first.start()
    try:
        assert begun.wait(timeout=120)
        for resume in (False, True):
            with pytest.raises(ModelError, match=REFUSED):
                train(recipe, out, resume=resume)
    finally:
        go_on.set()
        first.join(timeout=120)
    assert (out / CHECKPOINT).exists()
    assert train(recipe, out, resume=True)["step"] == 4
