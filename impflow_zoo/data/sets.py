"""Sets as `datasets` finds them: their splits, their files, and errors in one line."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from impflow_zoo.data.source import DataError

__all__ = [
    "builder_of",
    "files_of_builder",
    "is_inside",
    "one_line",
    "quietly",
    "refuse_other_places",
]

_NO_ROWS = ("corresponds to no data", "BatchSize must be greater")  # what datasets says of none
_GOES_ON = (":", "cast", "name is missing.")  # how it ends the first of several lines
_PAGES = ("README.md", ".huggingface.yaml")  # where a set may name its files
_SETTINGS, _DEPTH = 250_000, 30  # characters, and levels


def builder_of(dataset: str, **where: Any) -> Any:
    """What `datasets` makes of a set; no file with data is opened.

    Arguments:
        dataset: the name of the set, for messages.
        where: arguments of `datasets.load_dataset_builder`.

    Raises:
        DataError: if there is none.
    """
    import datasets  # half a second or more

    if os.path.isdir(folder := Path(where["path"])):
        _check_pages(dataset, folder)
    return quietly(dataset, datasets.load_dataset_builder, **where)


def files_of_builder(builder: Any) -> dict[str, list[str]]:
    """The names of the files of each split.

    Raises:
        DataError: if a file is in two splits, as its name and its folders may tell different ones.
    """
    found = builder.config.data_files or {}
    files = {str(split): [str(file) for file in files] for split, files in found.items()}
    places: dict[str, str] = {}
    for split, names in files.items():
        for file in names:
            if (other := places.setdefault(file, split)) != split:
                raise DataError(
                    f"{file} is in two splits, {other} and {split}: words such as train, val or "
                    "test in the names of files and folders tell the split. Rename one of these"
                )
    return files


def refuse_other_places(dataset: str, files: Mapping[str, Sequence[str]], place: str) -> None:
    """The page of a set may name its files, and those of others are none of its business.

    Arguments:
        dataset: the name of the set.
        files: the names of the files of each split.
        place: what they begin with.

    Raises:
        DataError: for a file outside.
    """
    for file in itertools.chain(*files.values()):
        if not is_inside(file, place):
            raise DataError(f"{dataset}: its page names a file outside of the set, {file}")


def is_inside(file: str, place: str) -> bool:
    """Whether a path or address begins with a place once `..` is resolved, links are not."""
    return os.path.normpath(file).startswith(os.path.normpath(f"{place}x").removesuffix("x"))


def quietly(dataset: str, function: Callable[..., Any], **arguments: Any) -> Any:
    """Call a function of `datasets`, whose errors come from all libraries below it.

    Raises:
        DataError: for any error, in one line.
    """
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
        raise DataError(
            f"cannot load dataset {dataset[:200]!r}: {one_line(error)}{hint}"
        ) from error
    finally:
        datasets.logging.set_verbosity(level)


def one_line(error: BaseException) -> str:
    """The error underneath, in one line: wrappers say less than what they wrap."""
    while type(error).__name__.startswith("DatasetGeneration") and error.__cause__ is not None:
        error = error.__cause__
    first, *more = map(str.strip, str(error).strip().splitlines() or [type(error).__name__])
    return (" ".join((first, *more)) if first.endswith(_GOES_ON) else first)[:300]


def _check_pages(dataset: str, folder: Path) -> None:
    """Refuse a folder whose page would take `datasets` without end, or to places elsewhere.

    Raises:
        DataError: if the settings on a page are long, deep, or have aliases, which may stand for
            billions of values; or if they name an address.
    """
    for page in _PAGES:
        try:
            text = (folder / page).read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        if page == "README.md":
            _, head, *_ = (*text.split("---", 2), "")
        else:
            head = text
        if len(head) > _SETTINGS:
            raise DataError(f"{dataset}: the settings in {page} are too long")
        try:
            settings = yaml.safe_load(head) if _is_flat(head) else None
        except (yaml.YAMLError, ValueError):
            continue  # `datasets` says what is wrong with it
        if settings is None and head.strip():
            raise DataError(f"{dataset}: the settings in {page} have aliases, or are too deep")
        configs = settings.get("configs") if isinstance(settings, dict) else None
        for name in _texts(configs):
            if "://" in name:
                raise DataError(f"{dataset}: its page names a file outside of the set, {name}")


def _is_flat(text: str) -> bool:
    """Whether YAML has no aliases and few levels; it is read no further than that."""
    depth = 0
    for event in yaml.parse(text):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH or isinstance(event, yaml.AliasEvent):
            return False
    return True


def _texts(value: Any) -> Iterator[str]:
    """The texts in lists and mappings."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
