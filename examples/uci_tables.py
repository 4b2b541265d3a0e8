"""Three tables of UCI and OpenML, split as for the models of the zoo.

The test rows are those of the first split that many papers on regression use. A tenth of the other
rows is for validation. Test rows that also stand among the others are dropped.

| set | train | validation | test | file |
|---|---|---|---|---|
| `kin8nm` | 6,636 | 737 | 819 | `dataset_2175_kin8nm.csv`, from https://www.openml.org/d/189 |
| `power-plant` | 7,750 | 861 | 946 | `Folds5x2_pp.csv`: `Sheet5` of UCI's `.xlsx` file as CSV |
| `protein` | 37,042 | 4,115 | 4,276 | UCI's `CASP.csv` |

A split is drawn from places of rows, so the rows have to stand in the order of the file.

References:
    Probabilistic Backpropagation for Scalable Learning of Bayesian Neural Networks,
    Hernández-Lobato and Adams, 2015, https://arxiv.org/abs/1502.05336 (the splits)

    UCI Machine Learning Repository, Dua and Graff, 2017, https://archive.ics.uci.edu
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy
import pandas
import torch
from papamakarios import Splits, checked, find

from impflow_zoo.data import DataError

__all__ = ["TABLES", "Table", "read"]


class Table(NamedTuple):
    """A published file.

    Attributes:
        file: its name.
        columns: its columns in the order of the model, with the model's names for them.
        rows: how many rows it has.
        first: the last of these columns in its first row.
    """

    file: str
    columns: dict[str, str]
    rows: int
    first: float


TABLES = {
    "kin8nm": Table(
        file="dataset_2175_kin8nm.csv",
        columns={f"theta{i + 1}": f"x{i}" for i in range(8)} | {"y": "x8"},
        rows=8192,
        first=0.53652416,
    ),
    "power-plant": Table(
        file="Folds5x2_pp.csv",
        columns={name: name for name in ("AT", "V", "AP", "RH", "PE")},
        rows=9568,
        first=480.48,
    ),
    "protein": Table(
        file="CASP.csv",
        columns={f"F{i + 1}": f"x{i}" for i in range(9)} | {"RMSD": "x9"},
        rows=45730,
        first=17.284,
    ),
}


def read(path: Path, table: Table) -> Splits:
    """Split a published file into training, validation and test rows, float32 `(n, columns)`.

    Arguments:
        path: the file, or the folder with it.
        table: what it should hold.

    Raises:
        DataError: where the file is another one, or its rows stand in another order.
    """
    file = find(path, table.file)
    try:
        found = pandas.read_csv(file)
    except ValueError as error:  # no text, or rows of different lengths
        raise DataError(f"{file} is not a CSV file: {error}") from error
    columns = list(table.columns)
    if missing := set(columns) - set(found.columns):
        raise DataError(f"{file}: there is no column {', '.join(sorted(missing))}")
    values = checked(found[columns], file, len(columns))
    if len(values) != table.rows or not numpy.isclose(values[0, -1], table.first):
        raise DataError(
            f"{file}: {len(values):,} rows, {columns[-1]} of the first is {values[0, -1]:g}; "
            f"the published file has {table.rows:,} rows, and there it is {table.first:g}"
        )
    rows = values.astype(numpy.float32)
    places = numpy.random.RandomState(1).permutation(len(rows))  # published with this generator
    last = round(0.9 * len(rows))
    others, test = numpy.sort(places[:last]), numpy.sort(places[last:])
    others = numpy.random.default_rng(0).permutation(others)
    held = len(others) // 10
    seen = {row.tobytes() for row in rows[others]}
    test = [i for i in test if rows[i].tobytes() not in seen]
    validation, train, test = (
        torch.from_numpy(rows[i]) for i in (others[:held], others[held:], test)
    )
    return train, validation, test
