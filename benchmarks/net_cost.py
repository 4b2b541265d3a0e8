"""What a sandwich net costs beside a spectral net of the same widths.

    python benchmarks/net_cost.py [--publish]

A ResFlow block of either net, one thread, in turn, the fastest of several runs. `evaluation` is
`encode`, `log-density` the log-determinant with it, `training` a step's forward and backward pass.
Both nets are scaled to small slopes, so that solvers take the same number of steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from documents import ROOT, markdown, publish

from impflow_zoo import LipschitzMLP, ResFlowTransform, SandwichMLP

GUIDE = ROOT / "docs" / "which-net.md"
CASES = (  # features, rows, widths
    (2, 5000, (128, 128)),
    (6, 1000, (64, 64, 64)),
    (6, 1000, (128, 128, 128)),
    (43, 1000, (64, 64, 64)),
    (43, 1000, (128, 128, 128)),
)
NETS = {"spectral": LipschitzMLP, "sandwich": SandwichMLP}
TASKS = ("evaluation", "log-density", "training")
KAPPA = 0.1


def tasks(kind: str, features: int, rows: int, widths: tuple[int, ...]) -> dict[str, Callable]:
    """What is timed, by its name."""
    torch.manual_seed(0)
    block = ResFlowTransform(NETS[kind](features, widths, lipschitz=KAPPA)).eval()
    trained = ResFlowTransform(NETS[kind](features, widths, lipschitz=KAPPA)).train()
    x = torch.randn(rows, features)

    def step() -> None:
        trained.zero_grad()
        z, logabsdet = trained(x)
        (0.5 * z.square().sum() - logabsdet.sum()).backward()

    found = torch.no_grad()(lambda: block.encode(x)), torch.no_grad()(lambda: block(x)), step
    return dict(zip(TASKS, found, strict=True))


def measure(repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of every case, net and task."""
    figures = []
    for features, rows, widths in CASES:
        runs = {kind: tasks(kind, features, rows, widths) for kind in NETS}
        times: dict[str, dict[str, float]] = {kind: dict.fromkeys(TASKS, 1e9) for kind in NETS}
        for _ in range(repeats):
            for task in TASKS:
                for kind, run in runs.items():
                    start = time.perf_counter()
                    run[task]()
                    spent = 1e3 * (time.perf_counter() - start)
                    times[kind][task] = min(times[kind][task], spent)
        figures.append({"features": features, "rows": rows, "widths": widths, **times})
    return figures


def tables(figures: list[dict[str, Any]]) -> dict[str, str]:
    """The table of the guide: how many times as long a sandwich net takes."""
    rows = [
        (
            str(f["features"]),
            str(f["rows"]),
            "-".join(map(str, f["widths"])),
            *(f"{f['sandwich'][task] / f['spectral'][task]:.2f}" for task in TASKS),
        )
        for f in figures
    ]
    return {"cost table": markdown(f"d | rows | widths | {' | '.join(TASKS)}", rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--publish", action="store_true", help="write the guide's table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(options.repeats)
    print(*tables(figures).values())
    if options.publish:
        publish(GUIDE, tables(figures), figures, "net-cost")


if __name__ == "__main__":
    main()
