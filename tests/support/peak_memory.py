"""Peak memory of this process."""

from __future__ import annotations

import resource
from pathlib import Path

__all__ = ["peak_memory"]


def peak_memory() -> float:
    """Peak resident memory of this program in bytes.

    `getrusage` would count what its parent held when it forked.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * float(line.split()[1])
