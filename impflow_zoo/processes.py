"""The processes that work on one model together: usually one, several under `accelerate launch`.

Gradients are summed here, by accelerate's `reduce`, not by the wrapper that its `prepare` makes
(DistributedDataParallel). The wrapper sums gradients during the backward pass. If the rows of one
process raise an error, it has no gradients, and the other processes would wait for it. The wrapper
also takes the mean over processes, whose shares of a batch may differ by a row, and it wraps only
`forward`, while training calls `log_prob`.
"""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.models.fields import ModelError, usable_device

__all__ = ["Processes", "together"]


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
        if self.count > 1:
            self._exchange(list(tensors), lambda flat: _accelerate().reduce(flat, "sum"))

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite each tensor with the first process's."""
        if self.count > 1:
            self._exchange(list(tensors), lambda flat: _accelerate().broadcast(flat))

    def gather(self, own: Any) -> list[Any]:
        """What each process has, in the order of their numbers; anything that pickles."""
        return [own] if self.count == 1 else _accelerate().gather_object([own])

    def wait(self) -> None:
        """Go on when all have come here."""
        self.gather(None)

    def any(self, own: bool) -> bool:
        """Whether it holds in any process."""
        return any(self.gather(own))

    @torch.no_grad()
    def _exchange(self, tensors: list[Tensor], exchange: Any) -> None:
        """Send tensors as one per type: latency counts, not size."""
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            alike = [t for t in tensors if t.dtype == dtype]
            flat = exchange(torch.cat([t.flatten() for t in alike]))
            for tensor, part in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))


def together(device: str | torch.device | None = None) -> Processes:
    """The processes that `accelerate launch` or `torchrun` started together with this one.

    Arguments:
        device: device to compute on; None takes the process's GPU if there is one.

    Raises:
        ModelError: if `accelerate` is needed and missing, or there is no such device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return Processes(device=usable_device(device))
    # Functions of torch.distributed.nn keep the group that there is when they are first imported
    # as a default, and with it the threads of the exchange. Optimisers import them: later.
    importlib.import_module("torch.distributed.nn")
    try:
        from accelerate import PartialState
    except ImportError:
        raise ModelError(
            "several processes need accelerate: pip install 'impflow_zoo[train]'"
        ) from None
    wanted = None if device is None else usable_device(device)
    if wanted is not None and wanted.index is not None:
        raise ModelError(f"device={str(wanted)!r}: each of several processes has its own GPU")
    on_cpu = not torch.cuda.is_available() if wanted is None else wanted.type == "cpu"
    state = PartialState(cpu=on_cpu)
    # Threads of the exchange that still run when Python is gone may abort the process.
    atexit.register(state.destroy_process_group)
    place = torch.device("cpu") if on_cpu else state.device
    return Processes(state.process_index, state.num_processes, place)


def _accelerate() -> Any:
    from accelerate import utils

    return utils
