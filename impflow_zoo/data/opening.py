"""One way to open data by name, whatever kind it is."""

from __future__ import annotations

from collections.abc import Sequence

from impflow_zoo.data.loading import pick_split
from impflow_zoo.data.source import DataError, Source
from impflow_zoo.data.tables import open_table
from impflow_zoo.data.toys import open_toy
from impflow_zoo.numerics.probes import mix

__all__ = ["SPLITS", "open_source"]

SPLITS = ("train", "validation", "test")  # of the sets that are made here rather than read


def open_source(
    dataset: str,
    split: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    revision: str | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Source:
    """Open data by name.

    Arguments:
        dataset: `toy:NAME` for a two-dimensional toy; else a table: Hub id, local folder, or single
            `.parquet` or `.csv` file.
        split: which split; a table with one split is used whole when this is left out. The splits
            train, validation and test of a toy are independent samples, and so is the sample that
            is drawn when this is left out.
        columns: columns of a table, all numeric ones when left out.
        revision: branch, tag or commit of a Hub set.
        size: number of rows of a toy, 10,000 when left out.
        seed: of a toy.

    Returns:
        The rows.

    Raises:
        DataError: for anything that does not exist or does not apply.

    Example:
        >>> len(open_source("toy:moons", "test", size=100))
        100
    """
    kind, colon, name = dataset.partition(":")
    if colon and kind == "toy":
        _refuse(dataset, columns=columns, revision=revision)
        if split is not None:
            seed = mix(seed, SPLITS.index(pick_split(dataset, list(SPLITS), split)))
        return open_toy(name, 10_000 if size is None else size, seed)
    _refuse(dataset, size=size)
    return open_table(dataset, split, columns=columns, revision=revision)


def _refuse(dataset: str, **settings: object) -> None:
    for setting, value in settings.items():
        if value is not None:
            raise DataError(f"{dataset}: {setting} does not apply to this kind of data")
