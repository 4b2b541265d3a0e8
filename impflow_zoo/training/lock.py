"""One run in a folder at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import LOCK

__all__ = ["only_run"]


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keep other runs, of this process or another, out of a folder within the block.

    The kernel holds the lock, so a run that is killed frees it; its empty lock file stays until the
    next run ends. A block that writes nothing leaves no folder behind.

    Raises:
        ModelError: if another run is in the folder.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
        while not file.exists():  # its last holder deleted it when this one had opened it
            lock.release()
            lock.acquire(timeout=0)
    except Timeout:
        raise ModelError(
            f"another run trains in {folder}: wait until it ends, or choose another --out"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps open files, and folders may have others
            file.unlink(missing_ok=True)
            for path in made:
                path.rmdir()
        lock.release()
