"""The processes that work on one model together: usually one, several under a launcher.

Gradients are summed here, by `all_reduce`, not by torch's DistributedDataParallel, which sums them
during the backward pass. If the rows of one process raise an error, it has no gradients, and the
other processes would wait for it. The wrapper also takes the mean over processes, whose shares of a
batch may differ by a row, and it wraps only `forward`, while training calls `log_prob`.

The processes join by torch, not by accelerate's PartialState. Its time limit holds for joining and
for every exchange after it alike. On CPUs, without the variables of a launcher, it does not see a
process group that the caller has made. What the first call in a program found, and its device,
holds for all later calls, also after an error or when the group is gone.

An error must end all processes, and none may wait for one that has left. So a process that fails
sends its error in place of what it would have gathered next (`united`). That works because whatever
may fail in one process alone is followed by a `gather`; a sum or a copy comes right after one.
"""

from __future__ import annotations

import atexit
import importlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from impflow_zoo.models.fields import ModelError, usable_device
from impflow_zoo.models.reading import readable

__all__ = ["ProcessError", "Processes", "alone", "together"]

_LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what launchers set
_PATIENCE = 60.0  # seconds in which all processes have to start


class ProcessError(ModelError):
    """Another of the processes that work together has failed, has ended, or did not come."""


@dataclass(frozen=True)
class _Failure:
    """What a process that fails sends to the others."""

    message: str


@dataclass(frozen=True)
class Processes:
    """This process among those that were launched with it.

    All processes must call every method that exchanges data, in the same order. With one process
    these methods do nothing.

    Arguments:
        rank: number of this process.
        count: number of processes.
        device: device of this process.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    @property
    def description(self) -> str:
        """What they run on, for logs and cards."""
        each = f"{torch.get_num_threads()} of {os.cpu_count()} CPU threads"
        if self.device.type == "cuda":
            each = torch.cuda.get_device_name(self.device)
        return each if self.count == 1 else f"{self.count} processes, each on {each}"

    def share(self, n: int) -> range:
        """Which of `n` rows are this process's; those of all make up the whole, in order."""
        return range(n * self.rank // self.count, n * (self.rank + 1) // self.count)

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; all get the same bits."""
        self._exchange(list(tensors), lambda flat: distributed.all_reduce(flat))

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite each tensor with the first process's."""
        self._exchange(list(tensors), lambda flat: distributed.broadcast(flat, src=0))

    def gather(self, own: Any) -> list[Any]:
        """What each process has, in the order of their numbers; anything that pickles.

        Raises:
            ProcessError: if another process has failed or ended.
        """
        if self.count == 1:
            return [own]
        found: list[Any] = [None] * self.count
        with _ends_noticed():
            distributed.all_gather_object(found, own)
        for rank, one in enumerate(found):
            if isinstance(one, _Failure):
                raise ProcessError(f"process {rank} failed: {one.message}")
        return found

    def wait(self) -> None:
        """Go on when all have come here."""
        self.gather(None)

    def any(self, own: bool) -> bool:
        """Whether it holds in any process."""
        return any(self.gather(own))

    @contextmanager
    def united(self) -> Iterator[None]:
        """All processes get through the block, or an error in one ends it in all of them.

        The others raise a `ProcessError` that quotes it when they next gather something, at the
        latest at the end of the block.
        """
        try:
            yield
        except ProcessError:  # which the others have too
            raise
        except Exception as error:
            message = " ".join(str(error).split()) or type(error).__name__
            with suppress(ProcessError):
                self.gather(_Failure(readable(message)))
            raise
        self.wait()

    @torch.no_grad()
    def _exchange(self, tensors: list[Tensor], exchange: Callable[[Tensor], object]) -> None:
        """Send tensors as one per type: latency counts, not size."""
        if self.count == 1:
            return
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            alike = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.flatten() for t in alike])
            with _ends_noticed():
                exchange(flat)
            for tensor, part in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))


@contextmanager
def _ends_noticed() -> Iterator[None]:
    """An exchange fails if a process has ended: torch raises a plain `RuntimeError`."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            "another process has ended, or cannot be reached: see what it has printed"
        ) from error


def alone(device: str | torch.device | None = None) -> Processes:
    """This process by itself.

    Arguments:
        device: device to compute on; None takes a GPU if there is one.

    Raises:
        ModelError: if there is no such device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Processes(device=usable_device(device))


def together(device: str | torch.device | None = None) -> Processes:
    """The processes that a launcher (`torchrun`, `accelerate launch`) started with this one.

    All of them have to call it. They are those of torch's process group if there is one. Else they
    are those that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT speak of, all four of which
    launchers set; they have 60 seconds to come. Without these variables this process is alone.

    Arguments:
        device: device to compute on; None takes the process's GPU if there is one.

    Raises:
        ProcessError: if the other processes do not come in time.
        ModelError: if the variables are no numbers, or there is no such device.
    """
    launched = distributed.is_available() and distributed.is_initialized()
    rank, count = _launched()
    if launched:
        rank, count = distributed.get_rank(), distributed.get_world_size()
    if count == 1:
        return alone(device)
    wanted = None if device is None else usable_device(device)
    if wanted is not None and wanted.index is not None:
        raise ModelError(f"device={str(wanted)!r}: each of several processes has its own GPU")
    place = torch.device("cpu")
    if torch.cuda.is_available() if wanted is None else wanted.type == "cuda":
        place = usable_device(f"cuda:{os.environ.get('LOCAL_RANK', rank)}")
        torch.cuda.set_device(place)  # objects that are gathered pass through it
    if not launched:
        _join(rank, count, "gloo" if place.type == "cpu" else "nccl")
    return Processes(rank, count, place)


def _launched() -> tuple[int, int]:
    """The number of this process, and of how many, as a launcher has set them."""
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        text = os.environ.get(name) or "0"
        if not text.isdecimal():
            raise ModelError(f"{name}={text!r} in the environment: a launcher sets a whole number")
        numbers[name] = int(text)
    if not all(os.environ.get(name) for name in _LAUNCHER):
        return 0, 1
    if numbers["MASTER_PORT"] > 65535:
        raise ModelError("MASTER_PORT in the environment is above 65535: a port is needed")
    if numbers["RANK"] >= numbers["WORLD_SIZE"]:
        raise ModelError("RANK in the environment is not below WORLD_SIZE: use a launcher")
    return numbers["RANK"], numbers["WORLD_SIZE"]


def _join(rank: int, count: int, backend: str) -> None:
    """Make the process group, or raise a `ProcessError` if the others do not come in time."""
    # Functions of torch.distributed.nn keep the group that there is when they are first imported
    # as a default, and with it the threads of the exchange. Optimisers import them: later.
    importlib.import_module("torch.distributed.nn")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    end = time.monotonic() + _PATIENCE
    try:
        if rank > 0:
            _knock(address, port, end)  # torch itself would fill the screen
        store, *_ = next(distributed.rendezvous("env://", timeout=timedelta(seconds=_PATIENCE)))
        store = distributed.PrefixStore("impflow_zoo", store)
        store.add("here", 1)
        while store.add("here", 0) < count:
            _pause(end)
    except (TimeoutError, distributed.DistError) as error:
        raise ProcessError(
            f"this is process {rank} of {count} by RANK and WORLD_SIZE, and the others did not "
            f"come to {address}:{port} within {_PATIENCE:.0f} seconds: start all of them with "
            "torchrun, or unset WORLD_SIZE"
        ) from error
    with _nothing_printed():
        distributed.init_process_group(backend, store=store, rank=rank, world_size=count)
    # Threads of the exchange that still run when Python is gone may abort the process.
    atexit.register(_leave)


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """Keep stdout for results: the Gloo of torch 2.10 prints there, past Python."""
    stdout = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _knock(address: str, port: int, end: float) -> None:
    """Wait until the first process listens."""
    while True:
        try:
            socket.create_connection((address, port), timeout=_PATIENCE).close()
            return
        except OSError:
            _pause(end)


def _pause(end: float) -> None:
    if time.monotonic() > end:
        raise TimeoutError
    time.sleep(0.05)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
