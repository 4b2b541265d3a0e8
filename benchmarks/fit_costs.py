"""CPU time of the training steps and scores of what `fit` tries, and the formula for it.

    OMP_NUM_THREADS=1 python benchmarks/fit_costs.py

Measures every kind of candidate in `impflow_zoo.fitting.portfolio` on random rows, by
`time.process_time` of one thread, the median of several turns. Prints the constants of
`impflow_zoo.fitting.budget`, which are least squares with no negative constant, and how far the
formula is off.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy
import torch
from scipy.optimize import nnls

from impflow_zoo.data import TableSource
from impflow_zoo.fitting.budget import score_terms, step_terms
from impflow_zoo.fitting.columns import Findings
from impflow_zoo.fitting.portfolio import FINE, PORTFOLIO, Candidate, training_settings
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.config import parse
from impflow_zoo.models.fields import convert
from impflow_zoo.training import Trainer
from impflow_zoo.training.recipe import TrainingSettings

SIZES = [(2, 256), (5, 64), (5, 256), (9, 256), (9, 64), (20, 256)]
ROWS = 2000


def trainer(candidate: Candidate, features: int, batch: int, folder: Path) -> Trainer:
    """A trainer on random rows that depend on each other, some steps on."""
    torch.manual_seed(0)
    x = torch.randn(ROWS, features, dtype=torch.float64)
    x[:, 1:] += (2 * x[:, :1]).sin()
    findings = Findings(tuple(f"x{i}" for i in range(features)))
    rows = TableSource("random", x, findings.columns)
    settings = training_settings(candidate, 1000, ROWS, seed=0, validations=10, patience=None)
    own = convert({**settings, "batch_size": batch}, TrainingSettings, "training")
    model = model_class(candidate.model)(parse(candidate.full_config(findings)))
    made = Trainer(model, own, rows, rows, folder, progress=False)
    made.prepare()
    steps(made, 5)
    return made


def steps(made: Trainer, n: int) -> float:
    """CPU seconds of a step."""
    start = time.process_time()
    for _ in range(n):
        made.step()
        made.state["step"] += 1
    return (time.process_time() - start) / n


def validation(made: Trainer) -> float:
    """CPU seconds of a validation, the model saved."""
    made.state["best"] = None
    start = time.process_time()
    made.validate()
    return time.process_time() - start


def fitted(rows: list[list[float]], seconds: list[float]) -> tuple[list[float], float]:
    """Constants of the terms, by relative errors, and the largest of these."""
    matrix = numpy.array(rows) / numpy.array(seconds)[:, None]
    scale = matrix.max(axis=0)
    constants, _ = nnls(matrix / scale, numpy.ones(len(seconds)))
    constants /= scale
    return constants.tolist(), float(numpy.abs(matrix @ constants - 1).max())


def main() -> None:
    """Measure, fit, print."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    kinds = {candidate.kind: candidate for candidate in (*PORTFOLIO, FINE)}
    with tempfile.TemporaryDirectory() as folder:
        for kind, candidate in kinds.items():
            sizes = [size for size in SIZES if size[0] >= candidate.least]
            made = [trainer(candidate, *size, Path(folder) / "run") for size in sizes]
            turns = [[steps(one, 4) for one in made] for _ in range(3)]
            times = [statistics.median(column) for column in zip(*turns, strict=True)]
            scored = [statistics.median(validation(one) for _ in range(3)) for one in made]
            counts = [sum(p.numel() for p in one.model.parameters()) for one in made]
            blocks = candidate.config.get("blocks", 5)
            number = blocks if isinstance(blocks, int) else len(blocks)
            a = [step_terms(n, number, d, b) for n, (d, b) in zip(counts, sizes, strict=True)]
            b = [score_terms(n, d, ROWS) for n, (d, _) in zip(counts, sizes, strict=True)]
            own, off = fitted(a, times)
            score_own, score_off = fitted(b, scored)
            constants = ", ".join(f"{value:.2g}" for value in (*own, *score_own))
            print(f'    "{kind}": Cost({constants}),  # off by {off:.0%}, {score_off:.0%}')
            print("   ", [f"{1e3 * t:.0f} ms" for t in times])


if __name__ == "__main__":
    main()
