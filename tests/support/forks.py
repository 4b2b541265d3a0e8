"""Processes that start at once: forks of one that has imported torch and done nothing else.

A fresh process imports for seconds. To be killed, to run beside others, or to have an environment
of its own, a process need not be fresh.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing import context, forkserver, popen_forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any
from unittest import mock

__all__ = ["Forked", "forking"]

# None of them imports a client of the Hub, which reads the environment when it is imported.
_IMPORTED = ["torch", "torch._dynamo", "torch.distributed.nn", "nflows.flows", "pandas"]


class _Popen(popen_forkserver.Popen):
    """From a server of the tests' own: the one of Python may be that of the demo by now."""

    def _launch(self, process: Any) -> None:
        own = _server().connect_to_new_process
        with mock.patch.object(popen_forkserver.forkserver, "connect_to_new_process", own):
            super()._launch(process)


class _Process(context.ForkServerProcess):
    @staticmethod
    def _Popen(process: Any) -> _Popen:  # noqa: N802 (multiprocessing looks it up)
        return _Popen(process)


class _Context(context.ForkServerContext):
    Process = _Process


@cache
def _server() -> forkserver.ForkServer:
    server = forkserver.ForkServer()
    server.set_forkserver_preload(_IMPORTED)
    return server


def forking() -> BaseContext:
    """Where processes come from; where none can be forked, they are fresh."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    return _Context()


class Forked:
    """`python WORDS`.

    Arguments:
        words: `-c CODE` or a file, and their arguments.
        environment: variables of the process, beside those of this one.
    """

    def __init__(self, *words: object, environment: Mapping[str, str] | None = None) -> None:
        self.words = [str(word) for word in words]
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err = (Path(self._folder.name, name) for name in ("out", "err"))
        self._out.touch()
        self._err.touch()
        variables = {**os.environ, **(environment or {})}
        self._process = forking().Process(
            target=_main, args=(self.words, variables, str(self._out), str(self._err))
        )
        self._process.start()

    @property
    def out(self) -> str:
        """What it has written to stdout so far."""
        return self._out.read_text()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()

    def ended(self) -> subprocess.CompletedProcess[str]:
        """Wait until it has ended: its code, negative for a signal, and what it printed."""
        self._process.join(300)
        code = self._process.exitcode
        assert code is not None, f"it did not end: {self._err.read_text()}"
        ended = subprocess.CompletedProcess(self.words, code, self.out, self._err.read_text())
        self._process.close()
        self._folder.cleanup()
        return ended


def _main(words: list[str], variables: dict[str, str], out: str, err: str) -> None:
    import torch

    os.environ.clear()
    os.environ.update(variables)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    if "OMP_NUM_THREADS" in variables:  # torch has read another
        torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
    try:
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = words
            sys.path.insert(0, str(Path(words[0]).parent))
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
