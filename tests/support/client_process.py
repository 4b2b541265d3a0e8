"""A process that talks to the loopback Hub: its environment is set before anything is imported."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any
from unittest import mock

__all__ = ["Client", "Failure", "client", "command", "fails", "outcome"]


@dataclass(frozen=True)
class Failure:
    """An exception as seen from another process: the names of its types, and what it said."""

    types: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Output:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Client:
    """Runs functions of test modules in one process, in turn."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def __call__(self, function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
        return self._pool.submit(outcome, function, *args, **settings).result(timeout=120)


@contextlib.contextmanager
def client(environment: dict[str, str]) -> Iterator[Client]:
    """A process with the environment, alive within the block."""
    context = multiprocessing.get_context("spawn")
    with (
        mock.patch.dict(os.environ, environment),
        ProcessPoolExecutor(1, mp_context=context) as pool,
    ):
        pool.submit(os.getpid).result(timeout=120)
        yield Client(pool)


def outcome(function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """The value of a function, or the `Failure` it ended in."""
    try:
        return function(*args, **settings)
    except Exception as error:
        return Failure(tuple(t.__name__ for t in type(error).__mro__), str(error))


def command(*arguments: str) -> Output:
    """Run `impflow-zoo` with arguments in this process."""
    from impflow_zoo.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["impflow-zoo", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Output(code, out.getvalue(), err.getvalue())


def fails(result: Any, kind: str, *words: str) -> str:
    assert isinstance(result, Failure), result
    assert kind in result.types, result
    assert "\n" not in result.text, result
    for word in words:
        assert word in result.text, result
    return result.text
