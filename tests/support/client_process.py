"""A process that talks to the loopback Hub: its environment is set before anything is imported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from support.forks import forking

__all__ = ["Client", "Failure", "client", "fails", "outcome"]


@dataclass(frozen=True)
class Failure:
    """An exception as seen from another process: the names of its types, and what it said."""

    types: tuple[str, ...]
    text: str


class Client:
    """Runs functions of test modules in one process, in turn."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def __call__(self, function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
        return self._pool.submit(outcome, function, *args, **settings).result(timeout=120)


@contextlib.contextmanager
def client(environment: dict[str, str]) -> Iterator[Client]:
    """A process with the environment, alive within the block."""
    with ProcessPoolExecutor(
        1, mp_context=forking(), initializer=_set, initargs=(environment,)
    ) as pool:
        pool.submit(os.getpid).result(timeout=120)
        yield Client(pool)


def _set(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def outcome(function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """The value of a function, or the `Failure` it ended in."""
    try:
        return function(*args, **settings)
    except Exception as error:
        return Failure(tuple(t.__name__ for t in type(error).__mro__), str(error))


def fails(result: Any, kind: str, *words: str) -> str:
    assert isinstance(result, Failure), result
    assert kind in result.types, result
    assert "\n" not in result.text, result
    for word in words:
        assert word in result.text, result
    return result.text
