"""Running out of memory, in one line that says what needs less."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["NotEnoughMemoryError", "enough_memory", "memory_of"]

_SIGNS = ("can't allocate memory", "out of memory")  # torch has no type for it on CPUs


class NotEnoughMemoryError(MemoryError):
    """There is not enough memory; the message says what needs less."""


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a GPU or this machine has; on Windows, what an address reaches."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    if not hasattr(os, "sysconf"):
        return 2**63
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Within the block, running out of memory raises a `NotEnoughMemoryError` with a remedy."""
    try:
        yield
    except NotEnoughMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in _SIGNS):
            raise NotEnoughMemoryError(f"not enough memory: {remedy}") from error
        raise
