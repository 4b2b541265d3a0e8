"""Processes that are killed at every step of what they write."""

from __future__ import annotations

import builtins
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

__all__ = ["kill_at_every_step"]

_STEPS = ("replace", "rename", "unlink", "remove", "fsync")


def kill_at_every_step(work: Callable[[], object], every: int = 1) -> Iterator[int]:
    """Do the work in a child that dies at its first step, in one that dies at the second, ...

    A step is a file that is opened to be written, half of what is written to it, a flush to the
    disk, a renaming or a deletion. The number of the step follows each death; the last child does
    all of the work. Children are forks: starting Python for each would take a minute. To save time,
    children may die at `every` so many steps.
    """
    for step in count(step=every):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside other threads
            child = os.fork()
        if child == 0:
            try:
                _die_at(step)
                work()
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield step


def _die_at(last: int) -> None:
    """Let this process be killed in front of one of its steps."""
    steps, plain = count(), builtins.open

    def step() -> None:
        if next(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_a_step(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            step()
            return function(*arguments, **options)

        return call

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+"):
            return plain(file, mode, *arguments, **options)
        step()
        handle = plain(file, mode, *arguments, **options)
        write = handle.write

        def in_halves(content: Any) -> int:
            middle = len(content) // 2
            write(content[:middle])
            handle.flush()
            step()
            return middle + write(content[middle:])

        handle.write = in_halves
        return handle

    builtins.open = opened
    for name in _STEPS:
        setattr(os, name, after_a_step(getattr(os, name)))
