"""Open data of any kind by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from impflow_zoo.data.frames import IN_MEMORY, is_set
from impflow_zoo.data.images import ImageSource
from impflow_zoo.data.loading import pick_split
from impflow_zoo.data.names import listed
from impflow_zoo.data.pixels import ImageFormat
from impflow_zoo.data.source import DataError, Source
from impflow_zoo.data.tables import open_table
from impflow_zoo.data.toys import open_toy
from impflow_zoo.numerics.seeds import mix

__all__ = ["is_toy", "open_source"]

_TOY_SPLITS = ["train", "validation", "test"]


def is_toy(dataset: str | os.PathLike[str] | None) -> bool:
    """Whether a name is the name of a toy, which has any number of rows.

    Arguments:
        dataset: `toy:NAME`, or another name of data.
    """
    return os.fspath(dataset or "").startswith("toy:") and not os.path.exists(dataset or "")


def open_source(
    dataset: Any,
    split: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    features: int | None = None,
    revision: str | None = None,
    size: int | None = None,
    image: ImageFormat | None = None,
    skip_corrupt: bool = False,
    weights: str | None = None,
) -> Source:
    """Open data by name: `toy:NAME`, a Hub id, a folder, or a single file.

    Arguments:
        dataset: the name, or a path; a table in memory, see `open_table`; images as a
            `datasets.Dataset`; or a source, which is taken as it is.
        split: name of the split; None uses the whole of a set with one split. The splits train,
            validation and test of a toy are independent samples; None draws another independent
            sample.
        columns: columns of a table; None takes all numeric ones. A toy has two columns.
        features: number of columns of a table that are needed, if none are named.
        revision: branch, tag or commit of a Hub set.
        size: number of rows of a toy; None is 10,000.
        image: the format of the images, which are the rows then, uint8; None for tables.
        skip_corrupt: let `read` and `batches` leave out images that cannot be decoded.
        weights: the column of a table that holds the weights of its rows.

    Returns:
        The rows.

    Raises:
        DataError: if the data do not exist, or an argument does not apply to them.

    Example:
        >>> len(open_source("toy:moons", "test", size=100))
        100
    """
    if isinstance(dataset, Source):
        return dataset
    if not isinstance(dataset, str | os.PathLike):
        if image is not None and is_set(dataset):
            return ImageSource(IN_MEMORY, dataset, image, skip_corrupt=skip_corrupt)
        if image is not None:
            raise DataError(
                f"{IN_MEMORY}: image models read their images from files or a `datasets.Dataset`"
            )
        return open_table(dataset, columns=columns, features=features, weights=weights)
    dataset = os.fspath(dataset)
    if is_toy(dataset):
        if image is not None:
            raise DataError(f"{dataset} is a table, but an image model needs images")
        _refuse(dataset, revision=revision, skip_corrupt=skip_corrupt, weights=weights)
        seed = 0
        if split is not None:
            seed = mix(0, _TOY_SPLITS.index(pick_split(dataset, _TOY_SPLITS, split)))
        toy = open_toy(dataset.removeprefix("toy:"), 10_000 if size is None else size, seed)
        if columns is None:
            return toy
        if not set(columns) <= set(toy.columns):
            known, wanted = (listed(names) for names in (toy.columns, columns))
            raise DataError(f"{dataset}: its columns are {known}, not {wanted}")
        return toy.chosen(columns)
    if ":" in dataset and not os.path.exists(dataset):
        raise DataError(f"{dataset}: unknown kind of data: use toy:NAME, a Hub id or a path")
    _refuse(dataset, size=size)
    if image is not None:
        _refuse(dataset, weights=weights)
        return ImageSource.open(dataset, split, image, revision=revision, skip_corrupt=skip_corrupt)
    _refuse(dataset, skip_corrupt=skip_corrupt)
    return open_table(
        dataset, split, columns=columns, features=features, revision=revision, weights=weights
    )


def _refuse(dataset: str, **settings: object) -> None:
    for setting, value in settings.items():
        if value not in (None, False):
            raise DataError(f"{dataset}: {setting} does not apply to this kind of data")
