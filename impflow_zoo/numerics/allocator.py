"""glibc's allocator, which returns the memory of large tensors to the kernel."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["SETTINGS", "keep_memory"]

SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
_PARAMETERS = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}  # of mallopt


def keep_memory() -> None:
    """Let this process keep the memory of large tensors.

    It does nothing if the user has set one of the variables, or without glibc.
    """
    if sys.platform != "linux" or SETTINGS.keys() & os.environ.keys():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in SETTINGS.items():
            mallopt(_PARAMETERS[name], int(value))
