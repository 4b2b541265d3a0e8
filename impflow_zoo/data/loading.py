"""One split of a `datasets` set, from the Hub, a local folder or a single file."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from impflow_zoo.data.source import DataError, UnknownSplitError

__all__ = ["load_split", "one_line", "pick_split"]

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
# CSV files on disk are read whole: else the first rows decide whether a column holds whole numbers.
_IN_ONE_PIECE: dict[str, Any] = {"chunksize": 2**40}  # rows
_NO_ROWS = ("corresponds to no data", "BatchSize must be greater")  # what datasets says of none
_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(train|validation|test)(?![a-z])")


def load_split(
    dataset: str | os.PathLike[str],
    split: str | None = None,
    *,
    revision: str | None = None,
    streaming: bool = False,
) -> tuple[Any, str]:
    """Open one split.

    Arguments:
        dataset: Hub id, local folder, or single `.parquet`, `.csv`, `.json` or `.jsonl` file.
            A path that exists on disk is read from disk. The name of a single file tells its
            split, `train` if it names none.
        split: name of the split; may be left out if there is only one.
        revision: branch, tag or commit of a Hub set.
        streaming: open the set as a stream, whose rows come in order and are not kept.

    Returns:
        The split, a `Dataset` or an `IterableDataset`, and its name in messages.

    Raises:
        DataError: for a set or split that does not exist or cannot be read.
    """
    dataset = os.fspath(dataset)
    path = Path(dataset).expanduser()
    if not dataset.strip():
        raise DataError("the name of a data set is empty")
    if path.is_file():
        where = _file(path)
    elif path.is_dir():
        where = {"path": str(path.absolute()), **(_IN_ONE_PIECE if _of_csv_files(path) else {})}
        if glob.has_magic(where["path"]):
            raise DataError(f"{dataset}: a folder whose path holds *, ? or [ cannot be read")
    elif _looks_local(dataset):
        raise DataError(f"no such file or folder: {dataset}")
    else:
        where = {"path": dataset, "revision": revision}
    try:
        splits = _load(**where, streaming=streaming)
    except Exception as error:  # datasets lets errors of every library below it through
        if any(said in f"{error} {one_line(error)}" for said in _NO_ROWS):
            raise DataError(f"{dataset}: the set is empty, it has no rows") from error
        hint = "" if path.exists() else " (and there is no local file or folder of that name)"
        raise DataError(f"cannot load dataset {dataset!r}: {one_line(error)}{hint}") from error
    split = pick_split(dataset, list(splits), split)
    columns = splits[split].column_names or ()
    plain = not any(mark in column for column in columns for mark in ";\t")  # else no separators
    if where["path"] == "csv" and plain and any(c.startswith("__index_level_") for c in columns):
        raise DataError(f"{dataset}: rows have more fields than the first line has names")
    return splits[split], f"{dataset} ({split})"


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
    return " ".join((first, *more))[:300] if first.endswith(":") else first


def _load(**arguments: Any) -> dict[str, Any]:
    import datasets  # half a second or more

    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it raises what it logs as an error
    try:
        return datasets.load_dataset(**arguments)
    finally:
        datasets.logging.set_verbosity(level)


def _file(path: Path) -> dict[str, Any]:
    """What `datasets` has to be told of a single file."""
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise DataError(
            f"{path}: cannot read files of type {path.suffix or '(none)'}, "
            f"only {', '.join(_FORMATS)}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    named = _SPLIT_IN_NAME.search(path.stem.lower())
    files = {named[1] if named else "train": glob.escape(str(path.absolute()))}
    return {"path": kind, "data_files": files, **(_IN_ONE_PIECE if kind == "csv" else {})}


def _of_csv_files(folder: Path) -> bool:
    """Whether a folder holds CSV files and no other data; hidden files and texts do not count."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    seen = (file for file in files if not any(part.startswith(".") for part in file.parts))
    return {file.suffix.lower() for file in seen} - {"", ".md", ".txt"} == {".csv"}


def _names_a_format(dataset: str) -> bool:
    """Whether `datasets` takes a name for a format, such as csv: it would read what lies around."""
    module = f"datasets.packaged_modules.{dataset}"
    return dataset.isidentifier() and importlib.util.find_spec(module) is not None


def _looks_local(dataset: str) -> bool:
    return (
        dataset.startswith(("/", ".", "~", "\\"))
        or dataset.count("/") > 1
        or _names_a_format(dataset)
        or Path(dataset).suffix.lower() in _FORMATS
    )
