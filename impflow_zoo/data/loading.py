"""One split of a set on the Hub or on this disk: the files of a table, or a set of images."""

from __future__ import annotations

import functools
import glob
import hashlib
import importlib.util
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impflow_zoo.data.files import (
    FORMATS,
    PIXELS,
    check_images,
    check_tables,
    require_images,
    require_tables,
)
from impflow_zoo.data.parquet_files import flat_columns
from impflow_zoo.data.sets import builder_of, files_of_builder, quietly, refuse_other_places
from impflow_zoo.data.source import DataError, UnknownSplitError
from impflow_zoo.data.unread import warn_of_unread

__all__ = [
    "FoundImages",
    "FoundTable",
    "find_images",
    "find_table",
    "named_as",
    "pick_split",
]

_HUB = "hf://datasets/{}@"  # what addresses of the files of a set begin with
_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(train|validation|test)(?![a-z])")
_HELD_OUT = re.compile(r"(?<![a-z])(validation|valid|val|dev|test|eval)(?![a-z])")


@dataclass(frozen=True)
class FoundTable:
    """The files of one split of a table.

    Arguments:
        name: its name in messages.
        files: paths on this disk, all of one type.
        folder: where files of the Hub are kept; None for others.
    """

    name: str
    files: list[Path]
    folder: Path | None = None


@dataclass(frozen=True)
class FoundImages:
    """One split of a set of images, as `datasets` opens it.

    Arguments:
        name: its name in messages.
        data: a `Dataset` or an `IterableDataset`.
        place: what paths of its files begin with.
        parts: addresses of the parquet files that a stream of the Hub reads in turn.
    """

    name: str
    data: Any
    place: str
    parts: list[str]


def find_table(
    dataset: str | os.PathLike[str], split: str | None = None, *, revision: str | None = None
) -> FoundTable:
    """Find the files of one split of a table. Those of a set on the Hub are fetched.

    Arguments:
        dataset: Hub id, local folder, or single `.parquet`, `.csv`, `.json` or `.jsonl` file.
            A path that exists on disk is read from disk. The name of a single file tells its
            split, `train` if it names none.
        split: name of the split; may be left out if there is only one.
        revision: branch, tag or commit of a Hub set.

    Raises:
        DataError: for a set or split that does not exist or has other files.
    """
    dataset = os.fspath(dataset)
    here = _on_disk(dataset)
    path = here or _fetched(dataset, revision, require_tables)
    files = {_split_of(path): [path]} if path.is_file() else _files_of(dataset, path)
    if here and here.is_dir():
        warn_of_unread(dataset, here, files)
    split = pick_split(dataset, list(files), split)
    found = files[split]
    check_tables(found)
    kinds = sorted({FORMATS[file.suffix.lower()] for file in found})
    if len(kinds) > 1:
        raise DataError(f"{dataset} ({split}) has files of several types: {', '.join(kinds)}")
    return FoundTable(f"{dataset} ({split})", found, None if here else path)


def find_images(
    dataset: str | os.PathLike[str],
    split: str | None = None,
    *,
    revision: str | None = None,
    streaming: bool = False,
    labelled: bool = False,
) -> FoundImages:
    """Find one split of a set that may hold images, which CSV and JSON files do not.

    A set on the Hub is fetched, looked at and read like a folder, or streamed.

    Arguments:
        dataset, split, revision: as for `find_table`; a folder may also hold files of images.
        streaming: open the set as a stream, whose rows come in order and are not kept.
        labelled: take the names of folders for labels also if all pictures have the same.

    Raises:
        DataError: for a set or split that does not exist or cannot be read, for CSV and JSON
            files, and for files that unfold to more than the limit.
    """
    dataset = os.fspath(dataset)
    here = _on_disk(dataset)
    streamed = streaming and here is None
    if streamed:
        builder, place = builder_of(dataset, path=dataset, revision=revision), _HUB.format(dataset)
        _names_on_the_hub(dataset, files_of_builder(builder), require_images)
    else:
        path = here or _fetched(dataset, revision, require_images)
        place = f"{(path if path.is_dir() else path.parent).absolute()}{os.sep}"
        with named_as(dataset, None if here else path):
            builder = _local_builder(dataset, path, labelled)
    files = files_of_builder(builder)
    if here and here.is_dir():
        warn_of_unread(dataset, here, {name: map(Path, part) for name, part in files.items()})
    split = pick_split(dataset, list(files or builder.info.splits or ()), split)
    name, kind = f"{dataset} ({split})", builder.info.builder_name
    if kind in ("csv", "json"):
        raise DataError(f"{name}: no column of images, a {kind.upper()} file holds none")
    parts = files.get(split, []) if streamed and kind == "parquet" else []
    if parts:
        builder.config.columns = flat_columns(parts[0])
    if streaming:
        data = quietly(dataset, builder.as_streaming_dataset, split=split)
    else:
        quietly(dataset, builder.download_and_prepare)
        data = quietly(dataset, builder.as_dataset, split=split)
    return FoundImages(name, data, place, parts)


@contextmanager
def named_as(dataset: str, folder: Path | None) -> Iterator[None]:
    """Errors name a set on the Hub as the user knows it, not where its files are kept.

    Arguments:
        dataset: the name of the set.
        folder: where files of the Hub are kept; None for others.
    """
    try:
        yield
    except DataError as error:
        if folder is None:
            raise
        raise DataError(str(error).replace(str(folder), dataset)) from None


def pick_split(dataset: str, existing: list[str], split: str | None) -> str:
    """The split asked for, or the only one there is.

    Raises:
        UnknownSplitError: naming the splits that exist.
    """
    if split is None and len(existing) == 1:
        return existing[0]
    if split in existing:
        return split
    found = "several splits" if split is None else f"no split {split!r}"
    raise UnknownSplitError(f"{dataset} has {found}, choose one of: {', '.join(existing)}")


def _on_disk(dataset: str) -> Path | None:
    """The file or folder that a name stands for; None if it stands for a set on the Hub."""
    if not dataset.strip():
        raise DataError("the name of a data set is empty")
    path = Path(os.path.expanduser(dataset))
    if os.path.isfile(path):  # `Path` itself refuses long names
        return path
    if os.path.isdir(path):
        path = path.resolve()  # as `datasets` does it
        if glob.has_magic(str(path)):
            raise DataError(f"{dataset}: a folder whose path holds *, ? or [ cannot be read")
        return path
    if os.path.exists(path):
        raise DataError(f"{dataset} is neither a file nor a folder: write the data to a file first")
    if _looks_local(dataset):
        raise DataError(f"no such file or folder: {dataset[:200]}")
    return None


def _looks_local(dataset: str) -> bool:
    return (
        dataset.startswith(("/", ".", "~", "\\"))
        or dataset.count("/") > 1
        or _names_a_format(dataset)
        or Path(dataset).suffix.lower() in FORMATS
    )


def _names_a_format(dataset: str) -> bool:
    """Whether `datasets` takes a name for a format, such as csv: it would read what lies around."""
    module = f"datasets.packaged_modules.{dataset}"
    return dataset.isidentifier() and importlib.util.find_spec(module) is not None


def _split_of(file: Path) -> str:
    """The split that a file's name tells."""
    named = _SPLIT_IN_NAME.search(file.stem.lower())
    return named[1] if named else "train"


def _files_of(dataset: str, folder: Path) -> dict[str, list[Path]]:
    """The files of each split of a folder, none of which is opened."""
    where = str(folder.absolute())
    found = files_of_builder(builder_of(dataset, path=where))
    refuse_other_places(dataset, found, where + os.sep)
    files = {split: [Path(file) for file in names] for split, names in found.items()}
    if list(files) == ["train"]:
        for file in files["train"]:
            _refuse_capitals(dataset, file.relative_to(where))
    return files


def _refuse_capitals(dataset: str, file: Path) -> None:
    """`datasets` tells splits by words in small letters: `Test` would be a part of the training."""
    name = file.as_posix()
    if _HELD_OUT.search(name.lower()) and not _HELD_OUT.search(name):
        raise DataError(
            f"{dataset}: {name} would be in the split train: write train, validation and test in "
            "small letters"
        )


def _fetched(dataset: str, revision: str | None, require: Callable[[Iterable[str]], None]) -> Path:
    """The folder of a set on the Hub, with its files; those in the cache if it is not there.

    Raises:
        DataError: also from `require`, which gets the names of the files.
    """
    from huggingface_hub import snapshot_download

    fetch = functools.partial(snapshot_download, dataset, repo_type="dataset", revision=revision)
    try:
        files = files_of_builder(builder_of(dataset, path=dataset, revision=revision))
        if not files:  # what `datasets` has kept of an earlier visit
            raise DataError(f"cannot load dataset {dataset!r}: Couldn't reach the Hub")
    except DataError as error:
        if not isinstance(error.__cause__, ConnectionError | None):
            raise
        with suppress(OSError, ValueError):
            return Path(fetch(local_files_only=True)).resolve()
        raise
    names = _names_on_the_hub(dataset, files, require)
    patterns = [*map(glob.escape, names), "README.md"]
    return Path(quietly(dataset, fetch, allow_patterns=patterns)).resolve()


def _names_on_the_hub(
    dataset: str, files: Mapping[str, Sequence[str]], require: Callable[[Iterable[str]], None]
) -> list[str]:
    """The names of files within the repository of a set, none of which `require` refuses."""
    place = _HUB.format(dataset)
    refuse_other_places(dataset, files, place)
    found = itertools.chain(*files.values())
    names = [file.removeprefix(place).partition("/")[2] for file in found]
    require(f"{dataset}/{name}" for name in names)
    return names


def _local_builder(dataset: str, path: Path, labelled: bool) -> Any:
    """What `datasets` makes of a file or folder on this disk, none of whose files is opened."""
    where: dict[str, Any] = {"path": str(path.absolute())}
    if path.is_file():
        kind = FORMATS.get(path.suffix.lower())
        if kind is None:
            check_images([path])
            raise DataError(f"{dataset} is one image: name the folder that it is in")
        where = {"path": kind, "data_files": {_split_of(path): glob.escape(where["path"])}}
        files = [path]
    else:
        files = list(itertools.chain(*_files_of(dataset, path).values()))
    check_images(files)
    parquet = [file for file in files if file.suffix.lower() == ".parquet"]
    if parquet and parquet == files:
        where["columns"] = flat_columns(files[0])
    pictures = {file.suffix.lower() for file in files} <= {*PIXELS}
    if labelled and pictures and len({file.parent.name for file in files}) == 1:
        where["drop_labels"] = False  # `datasets` would drop the name of the one folder
    return builder_of(dataset, **where, description=_state(files))


def _state(files: Iterable[Path]) -> str:
    """A text that changes when a file is replaced.

    `datasets` keeps what it has read by the path and the time of modification, which a copy may
    share with the file before it. It takes this text as part of the name.
    """
    found = [(file.stat().st_size, file.stat().st_ino, file.stat().st_ctime_ns) for file in files]
    return hashlib.sha256(repr(found).encode()).hexdigest()
