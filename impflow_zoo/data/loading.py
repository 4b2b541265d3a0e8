"""One split of a set: CSV files on this disk, or a `datasets` set from the Hub or this disk."""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import itertools
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impflow_zoo.data.files import FORMATS, check_files
from impflow_zoo.data.source import DataError, UnknownSplitError

__all__ = ["FoundSplit", "find_split", "load_split", "one_line", "pick_split"]

_NO_ROWS = ("corresponds to no data", "BatchSize must be greater")  # what datasets says of none
_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(train|validation|test)(?![a-z])")


@dataclass(frozen=True)
class FoundSplit:
    """One split: CSV files, or a set that `datasets` has opened.

    Arguments:
        name: its name in messages.
        csv: CSV files on this disk, which are yet to be read; None for other data.
        data: other data, a `Dataset` or an `IterableDataset`.
    """

    name: str
    csv: list[Path] | None = None
    data: Any = None


def find_split(
    dataset: str | os.PathLike[str],
    split: str | None = None,
    *,
    revision: str | None = None,
    streaming: bool = False,
) -> FoundSplit:
    """Find one split, and open it unless it is of CSV files on this disk.

    Arguments:
        dataset: Hub id, local folder, or single `.parquet`, `.csv`, `.json` or `.jsonl` file.
            A path that exists on disk is read from disk. The name of a single file tells its
            split, `train` if it names none.
        split: name of the split; may be left out if there is only one.
        revision: branch, tag or commit of a Hub set.
        streaming: open the set as a stream, whose rows come in order and are not kept.

    Raises:
        DataError: for a set or split that does not exist or cannot be read.
    """
    dataset = os.fspath(dataset)
    path = Path(dataset).expanduser()
    if not dataset.strip():
        raise DataError("the name of a data set is empty")
    where: dict[str, Any] = {"path": str(path.absolute())}
    files: dict[str, list[Path]] = {}
    if path.is_file():
        named = _SPLIT_IN_NAME.search(path.stem.lower())
        only, kind = named[1] if named else "train", FORMATS.get(path.suffix.lower())
        where = {"path": kind, "data_files": {only: glob.escape(where["path"])}}
        files = {only: [path]}
    elif path.is_dir():
        if glob.has_magic(where["path"]):
            raise DataError(f"{dataset}: a folder whose path holds *, ? or [ cannot be read")
        files = _files_of(dataset, where["path"])
    elif path.exists():
        raise DataError(f"{dataset} is neither a file nor a folder: write the data to a file first")
    elif _looks_local(dataset):
        raise DataError(f"no such file or folder: {dataset}")
    else:
        where = {"path": dataset, "revision": revision}
    if files:
        split = pick_split(dataset, list(files), split)
        if all(file.suffix.lower() == ".csv" for file in files[split]):
            check_files(files[split])
            return FoundSplit(f"{dataset} ({split})", csv=files[split])
        check_files(itertools.chain(*files.values()))  # `datasets` opens those of all splits
        where["description"] = _state(itertools.chain(*files.values()))
    import datasets  # half a second or more

    splits = _quietly(dataset, datasets.load_dataset, **where, streaming=streaming)
    split = pick_split(dataset, list(splits), split)
    _check_fields(dataset, splits[split])
    return FoundSplit(f"{dataset} ({split})", data=splits[split])


def load_split(
    dataset: str | os.PathLike[str], split: str | None = None, **options: Any
) -> tuple[Any, str]:
    """Open one split of a set that may hold images, which CSV files do not.

    Arguments:
        dataset, split: as for `find_split`.
        options: its other arguments.

    Returns:
        The split, a `Dataset` or an `IterableDataset`, and its name in messages.

    Raises:
        DataError: as `find_split`, and for CSV files.
    """
    found = find_split(dataset, split, **options)
    if found.csv is not None:
        raise DataError(f"{found.name}: no column of images, a CSV file holds none")
    return found.data, found.name


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


def one_line(error: BaseException) -> str:
    """The error underneath, in one line: wrappers say less than what they wrap."""
    while type(error).__name__.startswith("DatasetGeneration") and error.__cause__ is not None:
        error = error.__cause__
    first, *more = map(str.strip, str(error).strip().splitlines() or [type(error).__name__])
    return " ".join((first, *more))[:300] if first.endswith((":", "cast")) else first


def _state(files: Iterable[Path]) -> str:
    """A text that changes when a file is replaced.

    `datasets` keeps what it has read by the path and the time of modification, which a copy may
    share with the file before it. It takes this text as part of the name.
    """
    found = [(file.stat().st_size, file.stat().st_ino, file.stat().st_ctime_ns) for file in files]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _files_of(dataset: str, folder: str) -> dict[str, list[Path]]:
    """The files of each split of a folder, none of which is opened."""
    import datasets

    builder = _quietly(dataset, datasets.load_dataset_builder, path=folder)
    found = builder.config.data_files or {}
    return {str(split): [Path(file) for file in files] for split, files in found.items()}


def _quietly(dataset: str, function: Callable[..., Any], **arguments: Any) -> Any:
    """Call a function of `datasets`, whose errors come from all libraries below it."""
    import datasets

    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it raises what it logs as an error
    try:
        return function(**arguments)
    except Exception as error:
        if any(said in f"{error} {one_line(error)}" for said in _NO_ROWS):
            raise DataError(f"{dataset}: the set is empty, it has no rows") from error
        known = os.path.exists(os.path.expanduser(dataset))
        hint = "" if known else " (and there is no local file or folder of that name)"
        raise DataError(f"cannot load dataset {dataset!r}: {one_line(error)}{hint}") from error
    finally:
        datasets.logging.set_verbosity(level)


def _check_fields(dataset: str, data: Any) -> None:
    """Refuse CSV files of the Hub whose surplus fields pandas has made an index."""
    columns = data.column_names or ()
    plain = not any(mark in column for column in columns for mark in ";\t")  # else no separators
    indexed = any(column.startswith("__index_level_") for column in columns)
    if data.info.builder_name == "csv" and indexed and plain:
        raise DataError(f"{dataset}: rows have more fields than the first line has names")


def _names_a_format(dataset: str) -> bool:
    """Whether `datasets` takes a name for a format, such as csv: it would read what lies around."""
    module = f"datasets.packaged_modules.{dataset}"
    return dataset.isidentifier() and importlib.util.find_spec(module) is not None


def _looks_local(dataset: str) -> bool:
    return (
        dataset.startswith(("/", ".", "~", "\\"))
        or dataset.count("/") > 1
        or _names_a_format(dataset)
        or Path(dataset).suffix.lower() in FORMATS
    )
