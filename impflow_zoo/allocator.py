"""glibc's allocator, which hands large tensors back to the kernel after each operation."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["SETTINGS", "keep_memory"]

SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
_PARAMETERS = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}  # of mallopt


def keep_memory() -> None:
    """Let this process keep the memory of large tensors.

    Nothing happens where the user has set one of the variables, or elsewhere than with glibc.
    """
    if sys.platform != "linux" or SETTINGS.keys() & os.environ.keys():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in SETTINGS.items():
            mallopt(_PARAMETERS[name], int(value))
