"""glibc's allocator, which hands large tensors back to the kernel after each operation."""

from __future__ import annotations

import os
import sys

__all__ = ["SETTINGS", "keep_memory"]

SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}


def keep_memory() -> None:
    """Start the program once more, as it was started, with settings that keep large tensors.

    The allocator reads them when a process starts. Nothing happens where one of them is set, or
    elsewhere than on Linux.
    """
    if sys.platform == "linux" and not SETTINGS.keys() & os.environ.keys():
        os.environ.update(SETTINGS)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
