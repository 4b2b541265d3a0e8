"""Files that are written whole or not at all; those of one folder together.

A save of several files takes four steps. The process may be killed, or the machine lose power, at
any moment:

1. All new files are written to the disk under temporary names.
2. A list of them, the journal, is renamed to its name. Until then, the old files count; from then
   on, the new ones.
3. The temporary files are renamed to their names, and files to be deleted are deleted.
4. The journal is deleted.

Whoever opens the folder next, to read or to write, takes the steps 3 and 4 if there is a journal
(`finish_save`). A save of one file needs none: a single renaming takes the steps 2 and 3.

Each save locks its folder. The lock is the kernel's and ends with the process, so a temporary file
that a save finds was left by one that was killed: it is deleted. The lock leaves no file behind.
Windows and some network drives do not have it; there, two processes must not save into one folder
at the same time.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import FILES

if sys.platform != "win32":
    import fcntl

__all__ = ["change_whole", "finish_save", "write_together", "write_whole"]

_JOURNAL, _TEMPORARY = ".impflow-zoo-save", ".impflow-zoo-tmp"
_JOURNAL_BYTES = 10_000  # more than the names of all files take


def write_whole(path: Path, content: bytes) -> None:
    """Write a file: a kill, a full disk or an interrupt leaves the old one or the new one.

    A symbolic link is replaced by a file, as the folder may be that of a stranger.
    """
    _save(path.parent, {path.name: content})


def write_together(folder: Path, files: Mapping[str, bytes | None]) -> None:
    """Write files of a model into its folder, and delete those that are None.

    A kill, a full disk or an interrupt leaves the old files or the new ones.

    Arguments:
        folder: of the model.
        files: contents by names that stand in `FILES`: a journal with others is a stranger's.

    Raises:
        ValueError: for other names.
    """
    if others := files.keys() - {*FILES}:
        raise ValueError(f"{min(others)} is no file of a model")
    _save(folder, files)


def change_whole(path: Path, changed: Callable[[bytes], bytes]) -> None:
    """Write a file as `write_whole`; no change of another process is lost.

    Arguments:
        path: of the file.
        changed: makes the new content of the old one, which is empty if there is no file.
    """
    with _locked(path.parent):
        before = path.read_bytes() if path.is_file() else b""
        _save_locked(path.parent, {path.name: changed(before)})


def _save(folder: Path, files: Mapping[str, bytes | None]) -> None:
    with _locked(folder):
        _save_locked(folder, files)


def _save_locked(folder: Path, files: Mapping[str, bytes | None]) -> None:
    _finish(folder)  # what a killed save has left
    try:
        _begin(folder, files)
    finally:
        _finish(folder)


def finish_save(folder: Path) -> None:
    """Finish a save that was killed after its files were on the disk, if there is one.

    Raises:
        ModelError: if its journal is damaged.
        OSError: if the folder must not be written.
    """
    if (folder / _JOURNAL).is_file():
        with _locked(folder):  # a live process has finished it then
            _finish(folder)


def _begin(folder: Path, files: Mapping[str, bytes | None]) -> None:
    """The steps 1 and 2."""
    for name, content in files.items():
        if content is not None:
            _write(folder, name, content)
    if len(files) > 1 or None in files.values():
        name = _JOURNAL
        written = {key: content is not None for key, content in files.items()}
        _write(folder, name, json.dumps(written).encode())
    _flush(folder)
    os.replace(_temporary(folder, name), folder / name)
    _flush(folder)


def _finish(folder: Path) -> None:
    """The steps 3 and 4 if there is a journal; temporary files without one are deleted."""
    journal = folder / _JOURNAL
    if journal.is_file():
        for name, written in _listed(journal).items():
            if written:
                with suppress(FileNotFoundError):  # renamed before the save was killed
                    os.replace(_temporary(folder, name), folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        _flush(folder)
        journal.unlink(missing_ok=True)
        _flush(folder)  # or a power failure might bring it back beside files of the next save
    for left in folder.glob(f".*{_TEMPORARY}"):
        left.unlink(missing_ok=True)


def _listed(journal: Path) -> dict[str, bool]:
    """The files of a save: whether each is written, or deleted.

    A folder may come from a stranger. What else lies in it is not touched.
    """
    with suppress(ValueError, AttributeError, RecursionError), open(journal, "rb") as file:
        files: dict[str, bool] = json.loads(file.read(_JOURNAL_BYTES))
        if files.keys() <= {*FILES}:
            return {name: bool(written) for name, written in files.items()}
    raise ModelError(f"{journal} is damaged: delete it, and save or download the model again")


def _temporary(folder: Path, name: str) -> Path:
    return folder / f".{name}{_TEMPORARY}"


def _write(folder: Path, name: str, content: bytes) -> None:
    try:
        with open(_temporary(folder, name), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # that of a write does not name the file
        raise OSError(error.errno, error.strerror, str(folder / name)) from error


def _flush(folder: Path) -> None:
    """Bring the names of a folder's files to the disk."""
    if sys.platform == "win32":  # which does not open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems do this for files alone
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """No other thread or process saves into the folder within the block."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # of file systems without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
