"""Files of users: read within limits, scored row by row, given back with a column more."""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from impflow_zoo.data import Batch, DataError, Source, TableSource, open_table
from impflow_zoo.data.csv_files import read_rows
from impflow_zoo.data.spreadsheets import safe_cell
from impflow_zoo.demo.exhibits import Exhibit
from impflow_zoo.demo.looks import rounded
from impflow_zoo.demo.quota import SCORED
from impflow_zoo.demo.workers import Workers
from impflow_zoo.evaluation.rows import column_of_weights
from impflow_zoo.evaluation.scoring import score
from impflow_zoo.evaluation.standard_errors import clustered, standard_error, weighted_mean
from impflow_zoo.models.config import Config
from impflow_zoo.models.rows import open_rows

if TYPE_CHECKING:
    import pandas

__all__ = ["COLUMN", "LARGEST", "ROWS", "Scored", "read_upload", "score_file", "write_scored"]

LARGEST = 100_000_000  # bytes; the server takes no more
ROWS = 1_000_000  # of a file; fewer are taken
COLUMN = "log_prob"
_SCORING = 600.0  # seconds that the rows of a file may be scored
_SHOWN = 30, 80  # columns of a table, and letters of a cell


@dataclass(frozen=True)
class Scored:
    """A file that was scored.

    Arguments:
        name: of the file.
        rows: of the file.
        out: the file with a column more.
        head: its first rows.
        text: what was found, in a line.
    """

    name: str
    rows: Source
    out: Path
    head: pandas.DataFrame
    text: str


def score_file(exhibit: Exhibit, path: Path, folder: Path, workers: Workers) -> Scored:
    """Log-densities of the rows of a CSV file, and their mean.

    The mean has the weights that `evaluate` gives it, from the column that the model's recipe
    names. In a file without this column all rows count alike.

    Arguments:
        exhibit: the model.
        path: of the file.
        folder: for the result, and for what reading leaves.
        workers: processes that read the file.

    Raises:
        DataError: if the file is too large, has the new column, no rows that the model takes, or
            weights that are none, or takes too much time or memory.
        ModelError: if values are outside the bounds of the model.
    """
    out, column = folder / f"{path.stem}{SCORED}", column_of_weights(exhibit.model, None)
    try:
        name, values, columns, groups, weights = workers.call(
            read_upload, exhibit.model.config, path, folder, column, folder=folder
        )
        rows = TableSource(name.replace(str(path), path.name), torch.from_numpy(values), columns)
        scored = score(exhibit.model, _InTime(rows), seed=0, progress=True)
        finite = scored.log_prob.isfinite()
        counted = finite if weights is None else finite & torch.from_numpy(weights > 0)
        if not counted.any():
            raise DataError("no row has a finite log-density, all are too far away")
        head = workers.call(write_scored, path, out, scored.log_prob.tolist(), folder=folder)
    except DataError as error:  # users know their file by its name alone
        said = str(error).replace(str(path), path.name)
        raise DataError(said if path.name in said else f"{path.name}: {said}") from None
    lost = int((~finite).sum())
    found = scored.log_prob[counted]
    kinds, counts = (
        None if one is None else torch.from_numpy(one)[counted] for one in (groups, weights)
    )
    about = float(standard_error(found, kinds, counts))
    mean = rounded(float(weighted_mean(found, counts)), about)
    text = f"{path.name}: {len(rows)} row{'s' * (len(rows) > 1)}, mean log-density {mean} nats"
    text += clustered(None if kinds is None else len(kinds.unique()))
    if column is not None:
        alike = f"all rows alike: there is no column {column}"
        text += f", {alike if counts is None else f'weighted by {column}'}"
    text += f"; none in {lost} rows, too far away" if lost else ""
    return Scored(path.name, rows, out, head, text)


def read_upload(
    config: Config, path: Path, folder: Path, weights: str | None = None
) -> tuple[str, Any, tuple[str, ...], Any, Any]:
    """The name, rows, columns, groups and weights of a file, arrays or None; a worker calls this.

    Rows of weight zero are kept: users get them back with their log-densities.

    Raises:
        DataError, ModelError: if the file is too large, or has no rows that the model takes, or
            weights that are none.
    """
    _check_size(path)
    names = next(read_rows(path))
    if COLUMN in names:
        raise DataError(f"there is a column {COLUMN} already: rename it")
    source = open_rows(config, str(path), None)
    assert isinstance(source, TableSource), "a model of images takes no CSV file"
    every, counts = range(len(source)), None
    groups = None if source.groups is None else source.groups.numpy()
    if weights in names:
        open_rows(config, str(path), None, weights=weights)  # refuses those that are none
        counts = open_table(path, columns=[weights]).rows(every)[:, 0].numpy()
    return source.name, source.rows(every).numpy(), source.columns, groups, counts


def write_scored(path: Path, out: Path, log_prob: list[float]) -> pandas.DataFrame:
    """Write a file with a column more, and return its first rows; a worker calls this."""
    import pandas

    added = [COLUMN, *log_prob]
    with out.open("w", encoding="utf-8", newline="") as file:
        rows = (
            [*map(safe_cell, row), more] for row, more in zip(read_rows(path), added, strict=True)
        )
        csv.writer(file, lineterminator="\n").writerows(rows)
    columns, letters = _SHOWN
    names, *head = (
        [cell[:letters] for cell in (*row[:-1][:columns], row[-1])]
        for row in itertools.islice(read_rows(out), 6)
    )
    return pandas.DataFrame(head, columns=names)


def _check_size(path: Path) -> None:
    """Refuse a file of too many bytes or lines before it is read."""
    size = path.stat().st_size
    if size > LARGEST:
        raise DataError(f"{size:,} bytes, a file of at most {LARGEST:,} is taken")
    ends = {b"\n": 0, b"\r": 0}  # a line ends with either, or with both
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            ends = {end: count + chunk.count(end) for end, count in ends.items()}
    rows = max(ends.values()) - 1
    if rows >= ROWS:
        raise DataError(f"{rows:,} rows, fewer than {ROWS:,} are taken")


class _InTime(TableSource):
    """Rows of a table that can be read for some time only."""

    def __init__(self, rows: TableSource) -> None:
        super().__init__(rows.name, rows.rows(range(len(rows))), rows.columns)
        self._end = time.monotonic() + _SCORING

    def read(self, indices: Sequence[int] | Tensor) -> Batch:
        if time.monotonic() > self._end:
            raise DataError(f"its rows take more than {_SCORING:.0f} seconds to score: give fewer")
        return super().read(indices)
