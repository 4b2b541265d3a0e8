"""Values that are absurd for their column, and long tails that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from impflow_zoo.data import TOYS, DataError, TableSource, open_source
from impflow_zoo.data.outliers import refuse_outliers

RNG = np.random.default_rng(0)
USUAL = 300 + 50 * RNG.standard_normal(1000)


def table(*columns: np.ndarray) -> TableSource:
    values = torch.tensor(np.column_stack(columns), dtype=torch.float64)
    return TableSource("t", values, [f"c{i}" for i in range(len(columns))])


def with_values(values: dict[int, float]) -> np.ndarray:
    column = USUAL.copy()
    column[list(values)] = list(values.values())
    return column


ABSURD = {
    "a slip": with_values({37: 1e30}),
    "a negative one": with_values({37: -1e12}),
    "the largest number": with_values({37: np.finfo(float).max}),
    "several": with_values({37: 1e30, 50: -2e30, 60: 3e29}) * np.sign(np.arange(1000) - 36.5),
    "a mark for missing values": with_values(dict.fromkeys(range(37, 400), 9.96921e36)),
    "among zeros": np.where(np.arange(100) == 37, 1e30, 0),
    "among equal values": np.where(np.arange(100) == 37, 1e30, 5),
    "among few that differ": np.where(np.arange(100) == 37, 1e30, np.arange(100) == 3),
    "in three rows": np.array([1, 1e30, 2]),
}


@pytest.mark.parametrize("column", ABSURD.values(), ids=ABSURD)
def test_an_absurd_value_is_named(column, request):
    row = 50 if "several" in request.node.name else min(37, len(column) - 2)
    usual = np.arange(len(column))
    message = rf"t: row {row}, column 'c1' .*--accept-outliers"
    with pytest.raises(DataError, match=message):
        refuse_outliers(table(usual, column))


N = 100_000
USUAL_TAILS = {
    "normal": RNG.standard_normal(N),
    "Cauchy": RNG.standard_cauchy(N),
    "log-normal": np.exp(3 * RNG.standard_normal(N)),
    "wealth": RNG.pareto(1.16, N),
    "ranks": RNG.zipf(2, N),
    "eighteen decades": 10 ** RNG.uniform(-18, 0, N),
    "mostly zero": np.where(RNG.random(N) < 0.95, 0, RNG.pareto(1.5, N)),
    "rare events": RNG.poisson(1e-4, N),
    "one event": (np.arange(N) == 37).astype(float),
    "two states": 1e7 * (RNG.random(N) < 0.3),
    "constant": np.full(N, 3.0),
    "dates": 1.7e9 + RNG.uniform(0, 1e7, N),
    "masses of stars": 2e30 * RNG.pareto(2, N),
    "noise of rounding": np.where(RNG.random(N) < 0.8, 1e-17, 1) * RNG.standard_normal(N),
}


@pytest.mark.parametrize("column", USUAL_TAILS.values(), ids=USUAL_TAILS)
def test_a_long_tail_is_not_absurd(column):
    for rows in (200, N):
        refuse_outliers(table(column[:rows]))


def test_neither_toys_nor_tables_of_textbooks_are_absurd():
    textbooks = pytest.importorskip("sklearn.datasets")
    for toy in TOYS:
        refuse_outliers(open_source(f"toy:{toy}", "train"))
    for name in ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine"):
        refuse_outliers(table(*getattr(textbooks, f"load_{name}")().data.T))
