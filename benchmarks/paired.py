"""How far one model is ahead of another on the same rows, with the error of the difference.

Run:
    python benchmarks/paired.py impflow-protein runs/impflow-protein --data FOLDER [--without 5]

Rows that are hard for one model are hard for the other. So the error of the mean difference is
smaller than that of two independent means.
"""

from __future__ import annotations

import argparse

from torch import Tensor

from impflow_zoo import create_model, evaluate
from impflow_zoo.mistakes import in_one_line
from impflow_zoo.models.metrics import METRICS


def mean_and_error(differences: Tensor, without: int = 0) -> tuple[float, float]:
    """Mean of `differences` `[n]` and its standard error, without some of the largest ones."""
    differences = differences[differences.abs().argsort()[: len(differences) - without]]
    return float(differences.mean()), float(differences.std() / len(differences) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs=2, metavar="MODEL", help="name or folder")
    parser.add_argument("--data", help="not needed where the first model ships its rows")
    parser.add_argument(
        "--without",
        type=int,
        default=0,
        metavar="N",
        help="leave out the N rows with the largest differences",
    )
    options = parser.parse_args()
    split = "test" if options.data else None
    first, second = (evaluate(create_model(name), options.data, split) for name in options.models)
    lead, error = mean_and_error(first.per_row - second.per_row, options.without)
    print(
        f"{lead:+.4f} +- {error:.4f} {METRICS[first.metric].unit}, n = {first.n - options.without}"
    )


if __name__ == "__main__":
    with in_one_line():
        main()
