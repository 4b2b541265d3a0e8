"""Processes that read strangers' files, each with limits on its time and its memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from impflow_zoo.data import DataError
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.memory import NotEnoughMemoryError, enough_memory
from impflow_zoo.models.texts import printable_output

__all__ = ["MEMORY", "SECONDS", "Workers"]

SECONDS, MEMORY = 60.0, 2 * 2**30  # of a call, and bytes on top of what every process has
Value = TypeVar("Value")


class Workers:
    """Calls functions in processes of their own, side by side, until it is closed.

    The limit on memory holds on Linux alone; on Windows only that on time does.

    Arguments:
        seconds: that a call may take.
        memory: bytes that a call may take in memory, and write to a file.
    """

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self._seconds, self._memory = seconds, memory
        clean = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context: Any = multiprocessing.get_context(clean)  # without the threads of a server
        self._context.set_forkserver_preload(["impflow_zoo.demo.uploads", "datasets"])
        self._running: set[BaseProcess] = set()
        self._starting, self._closed = threading.Lock(), False

    def call(self, function: Callable[..., Value], *arguments: Any, folder: Path) -> Value:
        """What a function of a module returns.

        Arguments:
            function: it and its arguments are pickled, and so is what it returns.
            arguments: of the function.
            folder: for all files that the function makes without being told where.

        Raises:
            DataError: what the function itself refuses, and calls beyond a limit.
            RuntimeError: any other error, with its traceback.
        """
        receiver, sender = self._context.Pipe(duplex=False)
        limits = (self._seconds, self._memory)
        process = self._context.Process(
            target=_answer, args=(sender, limits, folder, function, arguments), daemon=True
        )
        with self._starting:
            if self._closed:
                raise DataError("the server stops")
            process.start()
            self._running.add(process)
        sender.close()
        try:
            if not receiver.poll(self._seconds):
                raise DataError(f"it takes more than {self._seconds:g} seconds to read")
            value, refused, failed = receiver.recv()
        except (EOFError, ConnectionError):  # the process died
            raise DataError("it cannot be read within the limits on memory and time") from None
        finally:
            receiver.close()
            process.kill()
            process.join()
            self._running.discard(process)
        if failed:
            raise RuntimeError(failed)
        if refused:
            raise DataError(refused)
        return value

    def close(self) -> None:
        """End all calls, and refuse others."""
        with self._starting:
            self._closed = True
        for process in list(self._running):
            process.kill()
            process.join()


def _answer(
    sender: Connection,
    limits: tuple[float, int],
    folder: Path,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server hears it, and ends this process
    tempfile.tempdir = str(folder)
    _limit(*limits)
    try:
        with printable_output(), enough_memory("a smaller file needs less"):
            value = function(*arguments)
        sender.send((value, None, None))
    except NotEnoughMemoryError:
        memory = f"{limits[1] / 2**30:.1g} GiB"
        sender.send((None, f"it takes more than {memory} of memory to read", None))
    except (DataError, ModelError) as error:
        sender.send((None, str(error), None))
    except Exception:
        sender.send((None, None, traceback.format_exc()))


def _limit(seconds: float, memory: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    processors = os.cpu_count() or 1  # a process that has lost its server ends by itself
    limits = {resource.RLIMIT_CPU: int(seconds + 1) * processors, resource.RLIMIT_FSIZE: memory}
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + memory
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
