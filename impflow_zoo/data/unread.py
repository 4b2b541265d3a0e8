"""Files of a folder that `datasets` leaves out without a word."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from impflow_zoo.data.files import FORMATS, PIXELS
from impflow_zoo.data.names import listed
from impflow_zoo.data.source import LeftOutWarning

__all__ = ["warn_of_unread"]

_TABLES = (".csv", ".jsonl", ".parquet")  # files of settings are JSON, too
_PICTURES = (*PIXELS, ".avif", ".heic", ".heif")


def warn_of_unread(dataset: str, folder: Path, files: Mapping[str, Iterable[Path]]) -> None:
    """Name the files of a folder that seem to belong to it but are in none of its splits.

    `datasets` reads one type of files. Where words such as `test` or `val` in names tell splits,
    it reads only files with such names: one photo called `test.jpg` leaves out all others.

    Arguments:
        dataset: the name of the set.
        folder: where it is.
        files: the files of each split.
    """
    if links := [path.relative_to(folder).as_posix() for path in _linked(folder)]:
        warnings.warn(
            f"{dataset}: folders that are links are not read: {listed(links)}. Link files instead",
            LeftOutWarning,
            stacklevel=4,
        )
    read = {os.path.abspath(file) for part in files.values() for file in part}
    kinds = {Path(file).suffix.lower() for file in read}
    tables = kinds <= FORMATS.keys()
    if tables and (columns := _partitions(os.path.relpath(file, folder) for file in read)):
        warnings.warn(
            f"{dataset}: columns in the names of folders are not read: {listed(columns)}. Write "
            "them into the files",
            LeftOutWarning,
            stacklevel=4,
        )
    looked_for = _TABLES if tables else _PICTURES
    found = sorted(path for path in _visible(folder) if path.suffix.lower() in looked_for)
    unread = [path for path in found if os.path.abspath(path) not in read]
    if not (read and unread):
        return
    count = "1 file is" if len(unread) == 1 else f"{len(unread):,} files are"
    names = listed([path.relative_to(folder).as_posix() for path in unread])
    warnings.warn(
        f"{dataset}: {count} not read: {names} (splits: {', '.join(files)}). Files of one type are "
        "read, and if names hold words such as train, val or test, only files with such names: "
        "rename these, or put all into folders train, validation and test",
        LeftOutWarning,
        stacklevel=4,
    )


def _partitions(files: Iterable[str]) -> list[str]:
    """The columns that a partitioned table keeps in the names of folders, `column=value`."""
    folders = {part for file in files for part in Path(file).parent.parts if "=" in part}
    return sorted({folder.partition("=")[0] for folder in folders})


def _linked(folder: Path) -> Iterator[Path]:
    """The folders below a folder that are links, which `datasets` does not follow."""
    for place, folders, _ in os.walk(folder):
        yield from (Path(place, name) for name in sorted(folders) if Path(place, name).is_symlink())


def _visible(folder: Path) -> Iterator[Path]:
    """The files below a folder, less those that `datasets` takes for hidden."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (Path(place, name) for name in names if not name.startswith((".", "__")))
