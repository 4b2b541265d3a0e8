"""Made-up rows of benchmarks in their published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
from uci_tables import TABLES


def household(n: int = 1234) -> np.ndarray:
    rng = np.random.default_rng(0)
    steps = np.array([0.001, 0.001, 0.01, 0.1, 1, 1, 1, 1])
    values = rng.normal(240, 3, (n, 8)).round(3)
    values[:, 7] = rng.integers(0, 1440, n)
    return np.rint(values / steps) * steps


def sensors(n: int = 800) -> np.ndarray:
    rng = np.random.default_rng(1)
    values = rng.normal(5, 2, (n, 19))
    values[:, 0] = np.arange(n)
    values[:, 8] = values[:, 5] + 0.1 * values[:, 6]  # close to sensor 5
    values[:, 12] = -values[:, 5]  # far below: only positive correlation counts
    values[:, 18] = values[:, 8] + 0.1 * rng.normal(size=n)
    return values


def collisions(rng: np.random.Generator, n: int) -> pandas.DataFrame:
    values = rng.normal(1, 2, (n, 27))
    values[:, 4] = rng.integers(0, 3, n)  # discrete
    values[:, 9] = values[:, 9].clip(-1)  # piles up at its smallest value
    values[:, 15] = values[:, 15].clip(None, 1)  # at its largest: not found by the published rule
    table = pandas.DataFrame(values, columns=[f"f{i}" for i in range(27)])
    table.insert(0, "# label", rng.integers(0, 2, n).astype(float))
    return table


def events() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    signal = rng.normal(2, 3, (1011, 50)).round(5)
    signal[:, 7] = rng.integers(0, 2, len(signal))
    signal[[5, 17, 1000]] = -999  # the outliers; they hide that column 30 piles up
    signal[:, 30] = np.where(signal[:, 30] > -999, signal[:, 30].clip(0), -999)
    kept = np.delete(signal[signal[:, 0] >= -100], [7, 30], axis=1)
    return signal, kept


def uci_table(folder: Path, name: str) -> pandas.DataFrame:
    """Write a file of `examples/uci_tables.py`, and return its rows in the order of the model."""
    table = TABLES[name]
    values = np.random.default_rng(5).normal(size=(table.rows, len(table.columns))).round(3)
    values[0, -1] = table.first
    rows = pandas.DataFrame(values, columns=list(table.columns))
    rows[list(table.columns)[::-1]].to_csv(folder / table.file, index=False)
    return rows
