"""How far one model is ahead of another on the same rows, with the error of the difference.

Run:
    python benchmarks/paired.py impflow-protein runs/impflow-protein --data FOLDER [--without 5]

Rows that are hard for one model are hard for the other. So the error of the mean difference is
smaller than that of two independent means. Both models must be of the same columns.
"""

from __future__ import annotations

import argparse

from torch import Tensor

from impflow_zoo import create_model, evaluate
from impflow_zoo.data import DataError
from impflow_zoo.evaluation import Result
from impflow_zoo.mistakes import in_one_line
from impflow_zoo.models.metrics import METRICS


def differences(first: Result, second: Result) -> Tensor:
    """By how much the first model is better on each row, `[n]`."""
    if (first.metric, first.n) != (second.metric, second.n):
        raise DataError("the models are not scored on the same rows")
    return METRICS[first.metric].sign * (first.per_row - second.per_row)


def mean_and_error(values: Tensor, without: int = 0) -> tuple[float, float]:
    """Mean of `values` `[n]` and its standard error, without some of the largest magnitude."""
    if not 0 <= without < len(values) - 1:
        raise DataError(f"{without} of {len(values)} rows cannot be left out")
    kept = values[values.abs().argsort()[: len(values) - without]]
    return float(kept.mean()), float(kept.std() / len(kept) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs=2, metavar="MODEL", help="name or folder")
    parser.add_argument("--data", help="not needed where both models ship the same rows")
    parser.add_argument(
        "--without", type=int, default=0, metavar="N", help="leave out the N largest differences"
    )
    options = parser.parse_args()
    split = "test" if options.data else None  # shipped rows have no splits
    first, second = (evaluate(create_model(name), options.data, split) for name in options.models)
    lead, error = mean_and_error(differences(first, second), options.without)
    unit, rows = METRICS[first.metric].unit, first.n - options.without
    print(f"{lead:+.4f} +- {error:.4f} {unit}, n = {rows}")


if __name__ == "__main__":
    with in_one_line():
        main()
