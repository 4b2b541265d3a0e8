"""The score of a full-covariance Gaussian: what any flow has to beat, and a check of the data.

Run:
    python benchmarks/gaussian_baseline.py --data bsds300:FOLDER
    python benchmarks/gaussian_baseline.py --data FOLDER_OR_HUB_ID
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from impflow_zoo.data import DataError, Source, open_source

_BATCH = 20_000  # rows in memory at a time


def batches(source: Source) -> Iterator[Tensor]:
    """All rows in order, some at a time."""
    for start in range(0, len(source), _BATCH):
        yield source.rows(range(start, min(start + _BATCH, len(source))))


def fit(source: Source) -> tuple[Tensor, Tensor]:
    """Mean `(D,)` and covariance `(D, D)` by maximum likelihood, in two passes."""
    mean = sum((rows.sum(0) for rows in batches(source)), torch.zeros(())) / len(source)
    scatter = sum(((rows - mean).T @ (rows - mean) for rows in batches(source)), torch.zeros(()))
    return mean, scatter / len(source)


def score(source: Source, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """Mean log-density in nats, and its standard error."""
    factor = torch.linalg.cholesky(covariance)
    constant = factor.diagonal().log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)
    scores = torch.cat(
        [
            -0.5
            * torch.linalg.solve_triangular(factor, (rows - mean).T, upper=False).square().sum(0)
            for rows in batches(source)
        ]
    )
    return float(scores.mean() - constant), float(scores.std() / math.sqrt(len(scores)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="anything that `open_source` opens")
    parser.add_argument("--fit", default="train", help="split the Gaussian is fitted on")
    parser.add_argument("--split", default="test", help="split it is scored on")
    parser.add_argument("--columns", help="names with commas between; all numeric ones by default")
    chosen = parser.parse_args()
    columns = chosen.columns.split(",") if chosen.columns else None
    try:
        train, test = (
            open_source(chosen.data, split, columns=columns) for split in (chosen.fit, chosen.split)
        )
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    value, stderr = score(test, *fit(train))
    print(f"{test.name}: {value:.3f} +- {stderr:.3f} nats, n = {len(test)}, fit on {len(train)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
