"""Peak memory of a training step against terms of a series, products of a solve, steps of a root.

    python benchmarks/memory.py

An ImpFlow of two scales, width 64, on eight 3x32x32 images; every point has a process of its own,
in which the number of terms, products or steps is forced. The last line is what would happen if the
graph of every term were kept, as differentiating a truncated series does. The figures go to
`results/memory.json`, the table made of them into the README.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from documents import README, markdown, publish
from speed import in_process, peak_memory
from torch import Tensor

from impflow_zoo import ImageConfig, ImpFlow, LogDet, Solver
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.numerics import estimate, search
from impflow_zoo.numerics.krylov import Krylov, arnoldi
from impflow_zoo.numerics.report import Report

COUNTS = (5, 20, 80)
MOST_PRODUCTS = 20  # soon after, the residual of a solve in float32 is zero, and it ends
SHAPE = (8, 3, 32, 32)
KINDS = {
    "terms": "terms of the roulette series",
    "products": "products of the linear solve",
    "steps": "steps of every root",
    "graphs": "terms, each with its graph",
}


@contextmanager
def forced(model: FlowModel, kind: str, n: int) -> Iterator[None]:
    """Make every log-determinant or root of a model take `n` terms, products or steps."""
    logdets = {
        "terms": LogDet("unbiased", series="roulette"),
        "products": LogDet("unbiased"),
        "steps": LogDet("unbiased"),
        "graphs": LogDet("truncated", n_terms=n, n_probes=1),
    }
    solver = Solver("fixed_point", max_steps=n) if kind == "steps" else Solver()
    for block in model.blocks():
        block.logdet, block.solver = logdets[kind], solver

    def space(product: Any, v: Tensor, rtol: float) -> Krylov:
        found = arnoldi(product, v, 0.0, max_dim=n)
        return replace(found, residual=torch.zeros_like(found.residual))  # no restarts

    patches = {
        "terms": [mock.patch.object(Tensor, "geometric_", lambda t, p: t.fill_(n - 2))],
        "products": [mock.patch.object(estimate, "arnoldi", space)],
        "steps": [
            mock.patch.object(Solver, "tolerances", return_value=(0.0, 0.0)),
            mock.patch.object(search, "_PATIENCE", 10**9),
            mock.patch.object(search, "_FLOOR", 0.0),
        ],
        "graphs": [],
    }[kind]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def step(model: FlowModel, x: Tensor, kind: str, n: int) -> None:
    """Forward and backward pass of a training step.

    Raises:
        RuntimeError: if the number was not taken after all.
    """
    model.train()
    report = Report()
    with forced(model, kind, n):
        model.log_prob(x, report=report).mean().backward()
    steps = {int(root.steps.max()) for root in report.roots}
    found = steps if kind == "steps" else {logdet.products for logdet in report.logdets}
    if kind != "graphs" and found != {n}:
        raise RuntimeError(f"{kind}: {n} were asked for, {found} taken")


def measure(kind: str, n: int) -> float:
    """Peak resident memory of this process in MB, past two steps."""
    import warnings

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # roots do not converge to a tolerance of zero
    torch.manual_seed(0)
    config = ImageConfig(image_size=SHAPE[2:], blocks=(1, 1), width=64, lipschitz=0.9)
    model, x = ImpFlow(config), torch.rand(SHAPE)
    for _ in range(2):
        step(model, x, kind, n)
    return peak_memory()


def in_child(kind: str, n: int) -> float:
    """The same in a process of its own."""
    return in_process("--point", json.dumps([kind, n]), script=__file__)


def tables(figures: dict[str, dict[str, float]]) -> dict[str, str]:
    """The table of the README, by the name of its place in it."""
    counts = [*figures["terms"]]
    rows = [
        (KINDS[kind], *(f"{by_n[n]:.0f}" if n in by_n else "" for n in counts))
        for kind, by_n in figures.items()
    ]
    header = " | ".join(["peak MB with this many", *counts])
    return {"memory table": markdown(header, rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(*json.loads(options.point))))
        return
    figures: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        figures[kind] = {}
        for n in (n for n in options.counts if kind != "products" or n <= MOST_PRODUCTS):
            figures[kind][str(n)] = in_child(kind, n)
            print(f"{n:3} {KINDS[kind]}: {figures[kind][str(n)]:.0f} MB", flush=True)
    publish(README, tables(figures), figures, "memory")


if __name__ == "__main__":
    main()
