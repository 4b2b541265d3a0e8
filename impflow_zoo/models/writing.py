"""Files written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from threading import get_ident

__all__ = ["write_together", "write_whole"]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it: never half a file."""
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes | None]) -> None:
    """Write files that belong together: a full disk or an interrupt leaves the old ones.

    All contents are on disk under temporary names before the first is renamed. Those that are None
    stand for files to be deleted.
    """
    mine = f"{os.getpid()}-{get_ident()}.tmp"  # not those of another thread
    waiting = {path.with_name(f".{path.name}.{mine}"): path for path in contents}
    try:
        for temporary, path in waiting.items():
            content = contents[path]
            try:
                if content is not None:
                    with open(temporary, "wb") as file:
                        file.write(content)
                        file.flush()
                        os.fsync(file.fileno())
            except OSError as error:  # that of a write does not name the file
                raise OSError(error.errno, error.strerror, str(path)) from error
        try:
            _rename(waiting)
        except KeyboardInterrupt:
            _rename(waiting)  # else the folder would hold files of two models
            raise
        for path, content in contents.items():
            if content is None:
                path.unlink(missing_ok=True)
    finally:
        for temporary in waiting:
            temporary.unlink(missing_ok=True)


def _rename(waiting: dict[Path, Path]) -> None:
    for temporary, path in waiting.items():
        if temporary.exists():
            os.replace(temporary, path)
