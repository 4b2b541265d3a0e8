"""CPU time of frozen flows under gradients, and of training under `torch.compile`.

    OMP_NUM_THREADS=1 python benchmarks/torch_tools.py [--publish]

A step of Hamiltonian Monte Carlo needs the gradient of a frozen model's log-density by its rows.
Ours and normflows' `Residual` have the nets of `speed.py`, and normflows' the weights of our
ResFlow; zuko's `NSF` has as many layers of the same widths. The compiled step of
training is one of Adam, by inductor, on a ResFlow of six blocks in the plane; the first calls,
which compile, are not counted. Times are CPU times of one thread, medians of turns. Without
`--publish` nothing is written.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import zuko
from cases import Case, Side, make_side
from documents import README, markdown, publish
from speed import timed
from torch import Tensor

from impflow_zoo import ResFlow, TabularConfig

FEATURES, LAYERS, WIDTHS = 6, 5, (128, 128)
Run = Callable[[], Any]


def milliseconds(sides: dict[str, Run], turns: int) -> dict[str, float]:
    """Median CPU milliseconds of every side; the sides take turns."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run()
        run()
    for _ in range(turns):
        for name, run in sides.items():
            taken[name].append(1e3 * timed(run))
    return {name: statistics.median(times) for name, times in taken.items()}


def score(log_prob: Callable[[Tensor], Tensor], rows: Tensor) -> Run:
    """The gradient of the log-densities of rows by these rows, of a model without gradients."""
    x = rows.clone().requires_grad_()
    return lambda: torch.autograd.grad(log_prob(x).sum(), x)


def density(side: Side) -> Callable[[Tensor], Tensor]:
    """The log-density of a model of `speed.py`, frozen."""
    side.prepare("log_prob")
    side.modules.requires_grad_(requires_grad=False)

    def log_prob(x: Tensor) -> Tensor:
        z, logdet = side.forward(x)
        return logdet - 0.5 * z.square().sum(1)

    return log_prob


def hmc(rows: int, turns: int) -> dict[str, float]:
    """CPU milliseconds of one gradient, by maker."""
    case = Case((FEATURES,), LAYERS, WIDTHS, rows)
    torch.manual_seed(0)
    spline = zuko.flows.NSF(FEATURES, transforms=LAYERS, hidden_features=WIDTHS)
    spline.requires_grad_(requires_grad=False)
    densities = {
        "ImpFlow": density(make_side("impflow", case)),
        "ResFlow": density(make_side("resflow", case)),
        "normflows Residual": density(make_side("normflows", case)),
        "zuko NSF": lambda x: spline().log_prob(x),
    }
    x = torch.randn(rows, FEATURES)
    return milliseconds({name: score(log_prob, x) for name, log_prob in densities.items()}, turns)


def training(rows: int, turns: int, backend: str) -> dict[str, float]:
    """CPU milliseconds of a step of training, as it is written and compiled."""
    torch.compiler.reset()  # compiled code of another number of rows would be made general

    def step(*, compiled: bool) -> Run:
        torch.manual_seed(0)
        config = TabularConfig(features=2, blocks=6, hidden_features=(64, 64))
        model = ResFlow(config).train()
        x = torch.randn(rows, 2)
        optimizer = torch.optim.Adam(model.parameters())
        log_prob = torch.compile(model.log_prob, backend=backend) if compiled else model.log_prob

        def run() -> None:
            optimizer.zero_grad()
            (-log_prob(x).mean()).backward()
            optimizer.step()

        return run

    return milliseconds(
        {"as written": step(compiled=False), "compiled": step(compiled=True)}, turns
    )


def tables(figures: dict[str, dict[str, dict[str, float]]]) -> dict[str, str]:
    """The two tables, from the figures by table, number of rows and side."""
    gradients, steps = figures["hmc"], figures["training"]
    sides = next(iter(gradients.values()))
    return {
        "hmc table": markdown(
            " | ".join(["ms", *(f"{rows} rows" for rows in gradients)]),
            [(name, *(f"{taken[name]:.1f}" for taken in gradients.values())) for name in sides],
        ),
        "compiled table": markdown(
            "rows | as written, ms | compiled, ms | times faster",
            [
                (rows, f"{written:.1f}", f"{compiled:.1f}", f"{written / compiled:.2f}")
                for rows, (written, compiled) in ((n, ms.values()) for n, ms in steps.items())
            ],
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="each step once, and not compiled")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    turns, backend = (1, "eager") if options.dry_run else (21, "inductor")
    figures = {
        "hmc": {str(rows): hmc(rows, turns) for rows in (64, 1000)},
        "training": {str(rows): training(rows, turns, backend) for rows in (200, 1000)},
    }
    for table in tables(figures).values():
        print(table)
    if options.publish:
        publish(README, tables(figures), figures, "torch-tools")


if __name__ == "__main__":
    main()
