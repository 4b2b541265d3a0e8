"""The score of a full-covariance Gaussian: what any flow has to beat, and a check of the data.

Run:
    python benchmarks/gaussian_baseline.py --data FOLDER_OR_HUB_ID
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import torch
import typer
from torch import Tensor

from impflow_zoo.data import Source, TableSource, open_source
from impflow_zoo.evaluation.standard_errors import standard_error
from impflow_zoo.models.mistakes import in_one_line

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
    """Mean log-density in nats, and its standard error, clustered if the rows have groups."""
    factor = torch.linalg.cholesky(covariance)
    constant = factor.diagonal().log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)
    scores = torch.cat(
        [
            -0.5
            * torch.linalg.solve_triangular(factor, (rows - mean).T, upper=False).square().sum(0)
            for rows in batches(source)
        ]
    )
    groups = source.groups if isinstance(source, TableSource) else None
    return float(scores.mean() - constant), float(standard_error(scores, groups))


def main(
    data: Annotated[str, typer.Option(help="Anything that `open_source` opens.")],
    fit_on: Annotated[
        str, typer.Option("--fit", help="Split the Gaussian is fitted on.")
    ] = "train",
    split: Annotated[str, typer.Option(help="Split it is scored on.")] = "test",
) -> None:
    """Fit a Gaussian and score it."""
    train, test = (open_source(data, name) for name in (fit_on, split))
    value, stderr = score(test, *fit(train))
    print(f"{test.name}: {value:.3f} +- {stderr:.3f} nats, n = {len(test)}, fit on {len(train)}")


if __name__ == "__main__":
    with in_one_line():
        typer.run(main)
