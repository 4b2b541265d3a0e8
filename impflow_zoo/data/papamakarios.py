"""POWER, GAS, HEPMASS and MINIBOONE, preprocessed as published.

Rows are standardised as they were for the published numbers, so that log-densities compare. Where
the published preparation drew random numbers from a known seed the rows are the published ones;
where it did not (POWER's time and GAS's sample, when read from the raw text) the distribution is.

References:
    Masked Autoregressive Flow for Density Estimation, Papamakarios et al., 2017,
    https://arxiv.org/abs/1705.07057 (the sets are described in appendix D)

    UCI Machine Learning Repository, Dua and Graff, 2017, https://archive.ics.uci.edu
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from impflow_zoo.data.loading import pick_split
from impflow_zoo.data.matrices import find_file, read_frame, read_text
from impflow_zoo.data.source import DataError, TableSource

if TYPE_CHECKING:
    import numpy
    import pandas

    Array = numpy.ndarray

__all__ = ["BENCHMARKS", "Benchmark", "open_benchmark"]

_HEPMASS_ROWS = {"1000_train.csv": 700_000, "1000_test.csv": 350_000}
_REPEATS = 5  # a feature whose smallest value occurs more often is taken for discrete
_CORRELATED = 0.98


@dataclass(frozen=True)
class Benchmark:
    """One of the sets.

    Arguments:
        files: what is looked for in a folder, first found first taken.
        read: from such a file to the train, validation and test rows.
    """

    files: tuple[str, ...]
    read: Callable[[Path], tuple[Array, Array, Array]]


def open_benchmark(name: str, path: str, split: str | None = None) -> TableSource:
    """Open one of the sets from the files its users have.

    - `power`: `data.npy`, or UCI's `household_power_consumption.txt`;
    - `gas`: UCI's `ethylene_CO.txt`, or the published table saved anew as `.parquet`, `.csv` or
      `.npy`. It is handed out as a pickle, which is refused: a pickle can run any code;
    - `hepmass`: a folder with `1000_train.csv` and `1000_test.csv`, also as `.csv.gz`;
    - `miniboone`: `data.npy`, or UCI's `MiniBooNE_PID.txt`.

    The published splits, to compare with what was opened:

    | set | features | train | validation | test |
    |---|---|---|---|---|
    | `power` | 6 | 1,659,917 | 184,435 | 204,928 |
    | `gas` | 8 | 852,174 | 94,685 | 105,206 |
    | `hepmass` | 21 | 315,123 | 35,013 | 174,987 |
    | `miniboone` | 43 | 29,556 | 3,284 | 3,648 |

    Arguments:
        name: one of `BENCHMARKS`.
        path: the file, or a folder that holds it.
        split: `train`, `validation` or `test`.

    Returns:
        The rows, standardised.

    Raises:
        DataError: for a file that is missing, a pickle, or not of the layout.
    """
    splits = ["train", "validation", "test"]
    benchmark = BENCHMARKS[name]
    file = find_file(path, benchmark.files)
    split = pick_split(f"{name}:{path}", splits, split)
    values = benchmark.read(file)[splits.index(split)]
    columns = [f"x{i}" for i in range(values.shape[1])]
    return TableSource(f"{name}:{path} ({split})", torch.from_numpy(values.copy()), columns)


def _power(file: Path) -> tuple[Array, Array, Array]:
    """Eight columns; two are dropped, and all but the time get the noise of a rounding step."""
    import numpy

    if file.suffix == ".txt":
        values = _power_from_text(read_text(file, separator=";", header=True), file)
    else:
        values = _numbers(read_frame(file), file, 8)
    generator = numpy.random.RandomState(42)  # the published rows hang on this very generator
    values = values[generator.permutation(len(values))][:, [0, 2, 4, 5, 6, 7]]
    voltage = 0.01 * generator.rand(len(values))
    values[:, 0] += 0.001 * generator.rand(len(values))
    values[:, 1] += voltage
    values[:, 2:5] += generator.rand(len(values), 3)
    return _standardised(*_hold_out(values))


def _power_from_text(table: pandas.DataFrame, file: Path) -> Array:
    import numpy
    import pandas

    if table.shape[1] != 9:
        raise DataError(f"{file}: {table.shape[1]} columns, expected 9 with ; between them")
    table = table.dropna()
    times = pandas.to_timedelta(table.iloc[:, 1], errors="coerce").dt.total_seconds() // 60
    noise = torch.rand(len(table), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    measured = _numbers(table.iloc[:, 2:], file, 7)
    minutes = _numbers(times.to_frame(), file, 1) + noise.numpy()[:, None]
    return numpy.hstack((measured, minutes))


def _gas(file: Path) -> tuple[Array, Array, Array]:
    """Sixteen sensors after time and two concentrations; correlated ones are dropped."""
    import numpy

    if file.suffix == ".txt":
        # The published table is a random quarter of the text.
        values = _numbers(read_text(file), file, 19)
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
        values = values[order[: (len(values) + 2) // 4].numpy()]
    else:
        values = _numbers(_without_index(read_frame(file)), file, 19)
    values = values[:, 3:]
    kept = list(range(values.shape[1]))
    close = numpy.corrcoef(values, rowvar=False) > _CORRELATED
    while (crowded := close[numpy.ix_(kept, kept)].sum(1) > 1).any():
        del kept[int(crowded.argmax())]
    values = values[:, kept]
    return _hold_out((values - values.mean(0)) / values.std(0, ddof=1))


def _hepmass(file: Path) -> tuple[Array, Array, Array]:
    """Signal events of the first tenth of the set, without label and discrete features."""
    train, test = (
        _signal_events(find_file(str(file.parent), (name, f"{name}.gz")), rows)
        for name, rows in _HEPMASS_ROWS.items()
    )
    test = test[:, : train.shape[1]]  # the test file has a column too many
    if test.shape[1] != train.shape[1]:
        raise DataError(f"{file.parent}: the test file has fewer columns than the training file")
    mean, scale = train.mean(0), train.std(0, ddof=1)
    kept = ~_is_discrete(train)
    train, test = ((values[:, kept] - mean[kept]) / scale[kept] for values in (train, test))
    held = len(train) // 10
    return train[: len(train) - held], train[len(train) - held :], test


def _signal_events(file: Path, rows: int) -> Array:
    table = read_frame(file, rows=rows)
    values = _numbers(table, file, None)
    values = values[values[:, 0] == 1, 1:]
    if not len(values):
        raise DataError(f"{file}: no row has 1 in the first column, the label")
    return values


def _miniboone(file: Path) -> tuple[Array, Array, Array]:
    """Signal events without outliers and discrete features; `data.npy` is that already."""
    if file.suffix != ".txt":
        return _standardised(*_hold_out(_numbers(read_frame(file), file, None)))
    with file.open() as lines:
        counts = lines.readline().split()
    if len(counts) != 2 or not counts[0].isdigit():
        raise DataError(f"{file}: the first line has to hold the numbers of signal and background")
    signal = int(counts[0])
    values = _numbers(read_text(file, rows=signal), file, 50)
    if len(values) < signal:
        raise DataError(f"{file}: {len(values)} rows, its first line promises {signal} of signal")
    values = values[values[:, 0] >= -100]
    return _standardised(*_hold_out(values[:, ~_is_discrete(values)]))


def _is_discrete(values: Array) -> Array:
    return (values == values.min(0)).sum(0) > _REPEATS


def _hold_out(values: Array) -> tuple[Array, Array, Array]:
    """The last tenth for test, the last tenth of the rest for validation."""
    test = len(values) - len(values) // 10
    train = test - test // 10
    return values[:train], values[train:test], values[test:]


def _standardised(train: Array, validation: Array, test: Array) -> tuple[Array, Array, Array]:
    """By the mean and deviation of train and validation together, as published."""
    import numpy

    seen = numpy.concatenate((train, validation))
    mean, scale = seen.mean(0), seen.std(0)
    return (train - mean) / scale, (validation - mean) / scale, (test - mean) / scale


def _without_index(table: pandas.DataFrame) -> pandas.DataFrame:
    """Without the index that pandas writes as a first column of its own."""
    return table.iloc[:, 1:] if str(table.columns[0]).startswith("Unnamed") else table


def _numbers(table: pandas.DataFrame, file: Path, columns: int | None) -> Array:
    """The values as float64, once they are known to be as many columns of numbers as expected."""
    import numpy

    if columns is not None and table.shape[1] != columns:
        raise DataError(f"{file}: {table.shape[1]} columns, expected {columns}")
    try:
        values = table.to_numpy(dtype=numpy.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: not all columns are numeric: {error}") from error
    bad = numpy.argwhere(~numpy.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise DataError(f"{file}: row {row}, column {column} is missing or not finite")
    if len(values) < 100:
        raise DataError(f"{file}: {len(values)} rows are too few to hold out a test split")
    return values


BENCHMARKS: dict[str, Benchmark] = {
    "power": Benchmark(
        files=("data.npy", "household_power_consumption.txt"),
        read=_power,
    ),
    "gas": Benchmark(
        files=("ethylene_CO.parquet", "ethylene_CO.csv", "ethylene_CO.npy", "ethylene_CO.txt"),
        read=_gas,
    ),
    "hepmass": Benchmark(
        files=("1000_train.csv", "1000_train.csv.gz"),
        read=_hepmass,
    ),
    "miniboone": Benchmark(
        files=("data.npy", "MiniBooNE_PID.txt"),
        read=_miniboone,
    ),
}
