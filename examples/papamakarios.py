"""POWER, GAS, HEPMASS and MINIBOONE, preprocessed as published.

Rows are standardised as they were for the published numbers, so that log-densities compare. Where
the published preparation drew random numbers from a known seed the rows are the published ones;
where it did not (POWER's time and GAS's sample, when read from the raw text) the distribution is.

| set | features | train | validation | test | files |
|---|---|---|---|---|---|
| `power` | 6 | 1,659,917 | 184,435 | 204,928 | `data.npy` or `household_power_consumption.txt` |
| `gas` | 8 | 852,174 | 94,685 | 105,206 | `ethylene_CO.txt`, or the published table as parquet |
| `hepmass` | 21 | 315,123 | 35,013 | 174,987 | `1000_train.csv` and `1000_test.csv`, or `.csv.gz` |
| `miniboone` | 43 | 29,556 | 3,284 | 3,648 | `data.npy` or `MiniBooNE_PID.txt` |

The published table of GAS is a pickle, which can run any code. Convert it where you trust it:
`pandas.read_pickle("ethylene_CO.pickle").to_parquet("ethylene_CO.parquet")`.

References:
    Masked Autoregressive Flow for Density Estimation, Papamakarios et al., 2017,
    https://arxiv.org/abs/1705.07057 (the sets are described in appendix D)

    UCI Machine Learning Repository, Dua and Graff, 2017, https://archive.ics.uci.edu
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pandas
import torch
from torch import Tensor

from impflow_zoo.data import DataError

__all__ = ["READERS"]

Array = numpy.ndarray
Splits = tuple[Tensor, Tensor, Tensor]  # train, validation, test

HEPMASS_ROWS = {"train": 700_000, "test": 350_000}
REPEATS = 5  # a feature whose smallest value occurs more often is taken for discrete
CORRELATED = 0.98


def power(path: Path) -> Splits:
    """Eight columns; two are dropped, and all but the time get the noise of a rounding step."""
    file = find(path, "data.npy", "household_power_consumption.txt")
    values = _power_of_text(file) if file.suffix == ".txt" else numpy.load(file)
    values = checked(values, file, 8)
    generator = numpy.random.RandomState(42)  # the published rows hang on this very generator
    values = values[generator.permutation(len(values))][:, [0, 2, 4, 5, 6, 7]]
    voltage = 0.01 * generator.rand(len(values))
    values[:, 0] += 0.001 * generator.rand(len(values))
    values[:, 1] += voltage
    values[:, 2:5] += generator.rand(len(values), 3)
    return standardised(*hold_out(values))


def _power_of_text(file: Path) -> Array:
    table = read_text(file, sep=";", header=0).dropna()
    times = pandas.to_timedelta(table.iloc[:, 1], errors="coerce").dt.total_seconds() // 60
    noise = torch.rand(len(table), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return numpy.column_stack((table.iloc[:, 2:], times + noise.numpy()))


def gas(path: Path) -> Splits:
    """Sixteen sensors after time and two concentrations; correlated ones are dropped."""
    file = find(path, "ethylene_CO.parquet", "ethylene_CO.txt")
    if file.suffix == ".txt":  # the published table is a random quarter of the text
        values = checked(read_text(file, sep=r"\s+", header=None, skiprows=1), file, 19)
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
        values = values[order[: (len(values) + 2) // 4].numpy()]
    else:
        values = checked(pandas.read_parquet(file), file, 19)
    values = values[:, 3:]
    kept = list(range(values.shape[1]))
    close = numpy.corrcoef(values, rowvar=False) > CORRELATED
    while (crowded := close[numpy.ix_(kept, kept)].sum(1) > 1).any():
        del kept[int(crowded.argmax())]
    values = values[:, kept]
    return tensors(*hold_out((values - values.mean(0)) / values.std(0, ddof=1)))


def hepmass(path: Path) -> Splits:
    """Signal events of the first tenth of the set, without label and discrete features."""
    train, test = (
        _signal_events(find(path, f"1000_{part}.csv", f"1000_{part}.csv.gz"), rows)
        for part, rows in HEPMASS_ROWS.items()
    )
    test = test[:, : train.shape[1]]  # the test file has a column too many
    mean, scale = train.mean(0), train.std(0, ddof=1)
    kept = ~is_discrete(train)
    train, test = ((values[:, kept] - mean[kept]) / scale[kept] for values in (train, test))
    held = len(train) // 10
    return tensors(train[: len(train) - held], train[len(train) - held :], test)


def _signal_events(file: Path, rows: int) -> Array:
    values = checked(pandas.read_csv(file, index_col=False, nrows=rows), file, None)
    return values[values[:, 0] == 1, 1:]


def miniboone(path: Path) -> Splits:
    """Signal events without outliers and discrete features; `data.npy` is that already."""
    file = find(path, "data.npy", "MiniBooNE_PID.txt")
    if file.suffix != ".txt":
        return standardised(*hold_out(checked(numpy.load(file), file, None)))
    with file.open() as lines:
        signal = int(lines.readline().split()[0])  # the first line counts signal and background
    table = read_text(file, sep=r"\s+", header=None, skiprows=1, nrows=signal)
    values = checked(table, file, 50)
    values = values[values[:, 0] >= -100]
    return standardised(*hold_out(values[:, ~is_discrete(values)]))


READERS: dict[str, Callable[[Path], Splits]] = {
    "power": power,
    "gas": gas,
    "hepmass": hepmass,
    "miniboone": miniboone,
}


def find(path: Path, *names: str) -> Path:
    """The file itself, or the first of the named files in a folder.

    Raises:
        DataError: where there is none, saying what was looked for.
    """
    places = [path / name for name in names] if path.is_dir() else [path]
    for place in places:
        if place.is_file() and place.suffix not in (".pickle", ".pkl"):
            return place
    raise DataError(f"{path} is none of the files {', '.join(names)} and no folder with one")


def read_text(file: Path, **layout: Any) -> pandas.DataFrame:
    """A plain text table as UCI hands it out; `?` is a missing value."""
    return pandas.read_csv(file, na_values="?", low_memory=False, **layout)


def checked(table: pandas.DataFrame | Array, file: Path, columns: int | None) -> Array:
    """The values as float64, once they are known to be as many columns of numbers as expected."""
    try:
        values = numpy.asarray(table, dtype=numpy.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: not all columns are numeric: {error}") from error
    if values.ndim != 2 or columns not in (None, values.shape[1]):
        raise DataError(f"{file}: shape {values.shape}, expected {columns} columns")
    bad = numpy.argwhere(~numpy.isfinite(values))
    if len(bad):
        raise DataError(f"{file}: row {bad[0][0]}, column {bad[0][1]} is missing or not finite")
    return values


def is_discrete(values: Array) -> Array:
    return (values == values.min(0)).sum(0) > REPEATS


def hold_out(values: Array) -> tuple[Array, Array, Array]:
    """The last tenth for test, the last tenth of the rest for validation."""
    test = len(values) - len(values) // 10
    train = test - test // 10
    return values[:train], values[train:test], values[test:]


def standardised(train: Array, validation: Array, test: Array) -> Splits:
    """By the mean and deviation of train and validation together, as published."""
    seen = numpy.concatenate((train, validation))
    mean, scale = seen.mean(0), seen.std(0)
    return tensors(*((part - mean) / scale for part in (train, validation, test)))


def tensors(train: Array, validation: Array, test: Array) -> Splits:
    return torch.from_numpy(train), torch.from_numpy(validation), torch.from_numpy(test)
