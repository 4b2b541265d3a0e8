"""Where the time of a benchmark case goes, by torch's operators.

    python benchmarks/hotspots.py image train

Shares are of the time under the profiler, which costs time itself, each operator without those that
it calls; "the rest" is what is left: most of the interpreter's, autograd's and NumPy's work.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from cases import CASES, TASKS, Side, make_side
from torch.profiler import ProfilerActivity, profile

SMOKE = "IMPFLOW_ZOO_SMOKE" in os.environ  # a test run: as little as possible


_WARM_UP, _RUNS = (1, 1) if SMOKE else (3, 10)
_SHOWN = 12


def shares(side: Side, task: str) -> dict[str, float]:
    """Each operator's share of the time of a run, the largest first."""
    side.prepare(task)
    for _ in range(_WARM_UP):
        side.run(task)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        start = time.perf_counter()
        for _ in range(_RUNS):
            side.run(task)
        total = time.perf_counter() - start
    parts = {e.key: e.self_cpu_time_total / 1e6 / total for e in found.key_averages()}
    parts["the rest"] = 1 - sum(parts.values())
    return dict(sorted(parts.items(), key=lambda part: -part[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--side", choices=("impflow", "resflow", "normflows"), default="impflow")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    parts = shares(make_side(options.side, CASES[options.case]), options.task)
    for name, share in list(parts.items())[:_SHOWN]:
        print(f"{100 * share:5.1f} %  {name}")


if __name__ == "__main__":
    main()
