"""Functions that a process of the demo may call: readers of files that strangers made badly."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from impflow_zoo.data import DataError
from impflow_zoo.demo.uploads import read_upload

__all__ = ["add", "bloat", "by_name", "die", "fail", "refuse", "saying_so", "sleep", "write"]


def add(a: int, b: int) -> int:
    """A plain function."""
    return a + b


def sleep(started: Path) -> None:
    """Never end; a file says that it has begun."""
    started.touch()
    time.sleep(10_000)


def bloat(kind: str) -> int:
    """Take all the memory there is: of Python, or of torch."""
    if kind == "torch":
        return int(torch.ones(2**40, dtype=torch.uint8).sum())
    return len([bytes(2**24) for _ in range(2**20)])


def write() -> None:
    """Fill the disk."""
    with tempfile.TemporaryFile() as file:
        while True:
            file.write(bytes(2**24))


def die() -> None:
    """What a fault in a library of C does."""
    os.kill(os.getpid(), signal.SIGSEGV)


def refuse() -> None:
    """What a reader does with a bad file."""
    raise DataError("no good")


def fail() -> None:
    """What nobody thought of."""
    raise KeyError("\x1b[31mraw")


def saying_so(score: Callable[..., Any]) -> Callable[..., Any]:
    """A function that scores, and leaves a file that says so, with the number of rows."""

    def scored(model: Any, source: Any, **options: Any) -> Any:
        Path(tempfile.gettempdir(), f"scoring-{len(source)}").touch()
        return score(model, source, **options)

    return scored


def by_name(config: Any, path: Path, folder: Path, *more: Any) -> Any:
    """The demo's reader, but for files whose names ask for something else."""
    if "slow" in path.name:
        sleep(path.with_name("begun"))
    if "raw" in path.name:
        fail()
    return read_upload(config, path, folder, *more)
