"""One way to open data by name, whatever kind it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from impflow_zoo.data.images import open_images
from impflow_zoo.data.loading import pick_split
from impflow_zoo.data.papamakarios import BENCHMARKS, open_benchmark
from impflow_zoo.data.patches import PatchSource, open_patches
from impflow_zoo.data.pixels import ImageFormat
from impflow_zoo.data.source import DataError, Source, TableSource
from impflow_zoo.data.tables import open_table
from impflow_zoo.data.toys import open_toy
from impflow_zoo.numerics.seeds import mix

__all__ = ["MADE_HERE", "open_source"]

_TOY_SPLITS = ["train", "validation", "test"]
MADE_HERE = ("toy", "bsds300")  # kinds whose rows are as many as one asks for
_KINDS = (*MADE_HERE, *BENCHMARKS)


def open_source(
    dataset: str | os.PathLike[str],
    split: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    revision: str | None = None,
    size: int | None = None,
    seed: int = 0,
    image: ImageFormat | None = None,
    skip_corrupt: bool = False,
    streaming: bool = False,
) -> Source:
    """Open data by name.

    | name | what | other settings |
    |---|---|---|
    | `toy:NAME` | one of the two-dimensional `TOYS` | `size`, `seed` |
    | `bsds300:SET` | patches of the photographs of a set | `revision`, `size`, `seed` |
    | `power:PATH`, `gas:`, `hepmass:`, `miniboone:` | the benchmark, from its published files | |
    | Hub id, folder, `.parquet`, `.csv`, `.json`, `.jsonl` file | a table | `columns`, `revision` |

    Arguments:
        dataset: the name, or a path.
        split: which split; a table with one split is used whole when this is left out. The splits
            train, validation and test of a toy are independent samples, and so is the sample that
            is drawn when this is left out.
        columns: columns of a table, all numeric ones when left out. The other kinds have theirs,
            and may be asked for no others.
        revision: branch, tag or commit of a Hub set.
        size: number of rows of what is made up here; when left out, 10,000 for a toy.
        seed: of what is made up here.
        image: what images are to look like; rows are the images of the set then, uint8.
        skip_corrupt: let `read` and `batches` leave out images that cannot be decoded.
        streaming: read images in order (`batches`) without keeping or downloading the set.

    Returns:
        The rows.

    Raises:
        DataError: for anything that does not exist or does not apply.

    Example:
        >>> len(open_source("toy:moons", "test", size=100))
        100
    """
    dataset = os.fspath(dataset)
    kind, colon, name = dataset.partition(":")
    known = bool(colon) and kind in _KINDS and not Path(dataset).exists()
    if known and not name:
        raise DataError(f"{dataset}: a name is missing behind the colon")
    if image is not None:
        if known:
            raise DataError(f"{dataset}: rows of a table, where a model of images needs images")
        _refuse(dataset, columns=columns, size=size)
        return open_images(
            dataset, split, image, revision=revision, skip_corrupt=skip_corrupt, streaming=streaming
        )
    _refuse(dataset, skip_corrupt=skip_corrupt or None, streaming=streaming or None)
    source: TableSource | PatchSource
    if kind == "toy" and name:
        _refuse(dataset, revision=revision)
        if split is not None:
            seed = mix(seed, _TOY_SPLITS.index(pick_split(dataset, _TOY_SPLITS, split)))
        source = open_toy(name, 10_000 if size is None else size, seed)
    elif kind == "bsds300" and name:
        source = open_patches(name, split, revision=revision, size=size, seed=seed)
    elif kind in BENCHMARKS and name:
        _refuse(dataset, size=size, revision=revision)
        source = open_benchmark(kind, name, split)
    elif name and not Path(dataset).exists():
        raise DataError(f"{dataset}: unknown kind of data {kind!r}, there is {', '.join(_KINDS)}")
    else:
        _refuse(dataset, size=size)
        return open_table(dataset, split, columns=columns, revision=revision)
    if columns is not None and tuple(columns) != source.columns:
        raise DataError(f"{dataset}: its columns are {_few(source.columns)}, not {_few(columns)}")
    return source


def _refuse(dataset: str, **settings: object) -> None:
    for setting, value in settings.items():
        if value is not None:
            raise DataError(f"{dataset}: {setting} does not apply to this kind of data")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"
