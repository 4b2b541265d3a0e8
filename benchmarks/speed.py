"""Time, work and memory of our blocks and of normflows' Residual, side by side.

    python benchmarks/speed.py [--cases 2d-b5000 d6] [--repeats 7] [--json FILE]

Times are CPU seconds of one thread, medians and quartiles; the sides take turns, so that a busy
machine is busy for all of them. A pass is one plain evaluation, without gradients, of all nets of
the model as `nn.Sequential` with the same batch: what does not depend on the machine.

Where the public code's work is known but not its passes, "at least" is what it must cost on this
machine: as many plain evaluations, and plain products by autograd, of our nets and batch, shared
evenly among the nets. Solvers, norms, weight gradients and the optimizer are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cases import Case

SIDES = ("impflow", "resflow", "normflows")
# glibc would hand every large tensor back to the kernel, and pay for each page again: see README.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
}


def timed(run: Callable[..., Any], *arguments: str) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    run(*arguments)
    return time.process_time() - start


def measure_times(case: str, repeats: int) -> list[dict[str, Any]]:
    """Times and counts of every side and task of a case."""
    import torch
    from cases import CASES, TASKS, counting, make_side

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # powers of contractions end there, and crawl
    sides = {name: make_side(name, CASES[case]) for name in sides_of(case)}
    rows = []
    for side in sides.values():
        side.build_passes()
        side.build_products()
    for task in TASKS:
        counts, seconds, passes, floor = {}, {}, {}, []
        work = CASES[case].public_work.get(task)
        for name, side in sides.items():
            side.prepare(task)
            side.run(task)
            with counting(side) as counts[name]:
                side.run(task)
            seconds[name], passes[name] = [], []
        for _ in range(repeats):
            for name, side in sides.items():
                passes[name].append(timed(side.passes))
                seconds[name].append(timed(side.run, task))
            if work:
                ours = sides["impflow"]
                shares = [count / len(ours.nets) for count in work]
                floor.append(shares[0] * timed(ours.passes) + shares[1] * timed(ours.products))
        for name in sides:
            low, middle, high = statistics.quantiles(seconds[name], n=4)
            one = statistics.median(passes[name])
            rows.append(
                {
                    "case": case,
                    "side": name,
                    "task": task,
                    "seconds": middle,
                    "quartiles": [low, high],
                    "passes": middle / one,
                    "pass_seconds": one,
                    "evaluations": counts[name].evaluations,
                    "products": counts[name].products,
                    "stderr": sides[name].standard_error()
                    if task == "log_prob" and name != "normflows"
                    else None,
                    "public_at_least": statistics.median(floor)
                    if floor and name == "impflow"
                    else None,
                }
            )
    return rows


def measure_memory(case: str, side_name: str, task: str) -> dict[str, int]:
    """Peak resident memory in MB of a process that does a task a few times, and before that."""
    import torch
    from cases import CASES, make_side

    torch.set_num_threads(1)
    side = make_side(side_name, CASES[case])
    side.prepare(task)
    before = round(peak_memory())
    for _ in range(3):
        side.run(task)
    return {"before": before, "peak": round(peak_memory())}


def peak_memory() -> float:
    """Peak resident memory of this program in MB.

    `getrusage` would count what its parent held when it forked.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return float(line.split()[1]) / 1024


def sides_of(case: str) -> tuple[str, ...]:
    """normflows has no block for images of the shape of ours."""
    return SIDES[:2] if case.startswith("image") else SIDES


def in_process(*arguments: str, script: str = __file__) -> Any:
    """What a process of its own with these arguments answers."""
    answer = subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(answer.stdout)


def report(row: dict[str, Any], case: Case) -> str:
    low, high = row["quartiles"]
    text = (
        f"{row['case']:11} {row['side']:9} {row['task']:9} {row['seconds'] * 1e3:8.1f} "
        f"[{low * 1e3:.1f}, {high * 1e3:.1f}]".ljust(60)
        + f"{row['passes']:7.1f} {row['evaluations']:5} {row['products']:5} "
        f"{row['memory']['peak']:6} (+{row['memory']['peak'] - row['memory']['before']})"
    )
    return f"{text:100} {'; '.join(notes(row, case))}".rstrip()


def notes(row: dict[str, Any], case: Case) -> list[str]:
    """What else is known: our standard error, and the public code's figures beside ImpFlow's."""
    found = [] if not row["stderr"] else [f"standard error {row['stderr']:.2f} nats"]
    if row["side"] != "impflow":
        return found
    if row["task"] in case.public:
        found.append(f"public code: {case.public[row['task']]}")
    if row["task"] == "log_prob" and case.public_stderr is not None:
        found.append(f"public code's: {case.public_stderr:g}")
    if row["public_at_least"] is not None:
        evaluations, products = case.public_work[row["task"]]
        found.append(
            f"public code: at least {row['public_at_least'] * 1e3:.0f} ms "
            f"({evaluations} evaluations, {products} products)"
        )
    if row["task"] not in {**case.public, **case.public_work}:
        found.append("public code: no figure that is fair here")
    return found


def main() -> None:
    from cases import CASES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--times", help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.times:
        print(json.dumps(measure_times(options.times, options.repeats)))
        return
    if options.memory:
        print(json.dumps(measure_memory(*options.memory)))
        return
    print(__doc__)
    print("case        side      task       CPU ms [quartiles]".ljust(60), end="")
    print(" passes evals  vjps  peak MB (+ over import and model)")
    figures = []
    for case in options.cases:
        for row in in_process("--times", case, "--repeats", str(options.repeats)):
            row["memory"] = in_process("--memory", case, row["side"], row["task"])
            print(report(row, CASES[case]), flush=True)
            figures.append(row)
        rss = CASES[case].public_rss
        print(f"{'':100} public code: {rss} MB peak in training" if rss else "", flush=True)
    print(
        "public code: passes of the ImpFlow code of Lu et al. (2021), with the same variables for"
    )
    print("glibc, measured on a quiet machine; its log_prob is stochastic for d > 2.")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
