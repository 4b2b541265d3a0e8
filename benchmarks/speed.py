"""Time, work and memory of our blocks, of the public ImpFlow code and of normflows' Residual.

    python benchmarks/speed.py [--public FOLDER] [--cases 2d-b5000 d6] [--repeats 7] [--publish]

Times are CPU seconds of one thread, medians and quartiles; the sides take turns, so that a busy
machine is busy for all of them. A pass is one plain evaluation, without gradients, of all nets of
the model as `nn.Sequential` with the same batch: what does not depend on the machine.

The public code has the nets and weights of our ImpFlow, normflows those of our ResFlow. FOLDER is
a checkout of https://github.com/thu-ml/implicit-normalizing-flows; without it, what was measured
last (`results/speed.json`) is printed beside ours. `--publish` puts the figures of these cases
there and into the README. Errors of samples are relative, root mean squares, against exact roots
in float64.
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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from documents import README, RESULTS, markdown, publish

from impflow_zoo.numerics.allocator import SETTINGS

if TYPE_CHECKING:
    from cases import Side

# glibc would hand every large tensor back to the kernel, and pay for each page again: see README.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "IMPFLOW_ZOO_SINES": "numpy", **SETTINGS}


def timed(run: Callable[..., Any], *arguments: str) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    run(*arguments)
    return time.process_time() - start


def measure_times(case: str, repeats: int, public: Path | None) -> list[dict[str, Any]]:
    """Times and counts of every side and task of a case."""
    import torch
    from cases import CASES
    from counting import counting

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # powers of contractions end there, and crawl
    sides = {name: make(name, case, public) for name in sides_of(case, public)}
    if public:  # the same nets: one unit for both
        sides["public"].nets = sides["impflow"].nets
    rows, errors = [], {}
    for name, side in sides.items():
        side.build_passes()
        if "sample" in CASES[case].tasks:  # before training moves the weights
            errors[name] = side.sample_error(make(name, case, public, exact=True))
    for task in CASES[case].tasks:
        counts, seconds, passes = {}, {}, {}
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
        for name, side in sides.items():
            low, middle, high = statistics.quantiles(seconds[name], n=4)
            one = statistics.median(passes[name])
            known = task == "log_prob" and name != "normflows"
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
                    "stderr": side.standard_error() if known else None,
                    "error": errors.get(name) if task == "sample" else None,
                }
            )
    return rows


def make(name: str, case: str, public: Path | None, *, exact: bool = False) -> Side:
    """A side by its name, or the reference for its samples.

    normflows has the weights of our ResFlow, and the same reference.
    """
    from cases import CASES, make_side

    sizes = replace(CASES[case], rtol=None) if exact else CASES[case]
    if name == "public":
        from public_code import public_side

        assert public is not None
        return public_side(sizes, public, exact=exact)
    return make_side("resflow" if exact and name == "normflows" else name, sizes)


def measure_memory(case: str, name: str, task: str, public: Path | None) -> dict[str, int]:
    """Peak resident memory in MB: of the imports, and of a process that does a task a few times."""
    import cases  # noqa: F401
    import torch

    torch.set_num_threads(1)
    imported = round(peak_memory())
    side = make(name, case, public)
    side.prepare(task)
    for _ in range(3):
        side.run(task)
    return {"imported": imported, "peak": round(peak_memory())}


def peak_memory() -> float:
    """Peak resident memory of this program in MB.

    `getrusage` would count what its parent held when it forked.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return float(line.split()[1]) / 1024


def sides_of(case: str, public: Path | None = None) -> list[str]:
    """Who is measured.

    normflows has no block for images of the shape of ours; tolerances concern ImpFlow alone.
    """
    from cases import CASES

    sides = ["impflow", "public", "resflow", "normflows"]
    if public is None:
        sides.remove("public")
    if case.startswith("image"):
        sides.remove("normflows")
    return [side for side in sides if CASES[case].rtol is None or side in ("impflow", "public")]


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


def report(row: dict[str, Any]) -> str:
    low, high = row["quartiles"]
    text = (
        f"{row['case']:11} {row['side']:9} {row['task']:9} {row['seconds'] * 1e3:8.1f} "
        f"[{low * 1e3:.1f}, {high * 1e3:.1f}]".ljust(60)
        + f"{row['passes']:7.1f} {row['evaluations']:5} {row['products']:5} "
        f"{row['memory']['peak']:6} (+{row['memory']['peak'] - row['memory']['imported']})"
    )
    notes = [f"standard error {row['stderr']:.2f} nats"] if row["stderr"] else []
    notes += [f"relative error {row['error']:.1e}"] if row["error"] else []
    return f"{text:100} {'; '.join(notes)}".rstrip()


def tables(figures: list[dict[str, Any]]) -> dict[str, str]:
    """Passes of every side and how many times faster ours are, and peaks of memory in training."""
    found = {(row["case"], row["task"], row["side"]): row for row in figures}

    def passes(*key: str) -> str:
        return f"{found[key]['passes']:.1f}" if key in found else ""

    def times(case: str, task: str, peer: str, own: str) -> str:
        if (case, task, peer) not in found:
            return ""
        ratio = found[case, task, peer]["seconds"] / found[case, task, own]["seconds"]
        return f"{ratio:.1f}"

    def accuracy(*key: str) -> str:
        rows = [found[*key, side] for side in ("impflow", "public") if (*key, side) in found]
        if key[1] == "sample":
            return " / ".join(f"{row['error']:.0e}" for row in rows if row["error"])
        if any(row["stderr"] for row in rows):
            return " / ".join(f"{row['stderr']:.2f} nats" for row in rows)
        return ""

    speed = [
        (
            *key,
            passes(*key, "impflow"),
            passes(*key, "public"),
            times(*key, "public", "impflow"),
            accuracy(*key),
            passes(*key, "resflow"),
            passes(*key, "normflows"),
            times(*key, "normflows", "resflow"),
        )
        for key in dict.fromkeys((row["case"], row["task"]) for row in figures)
    ]

    def peak(*key: str) -> str:
        if key not in found:
            return ""
        memory = found[key]["memory"]
        return f"{memory['peak']} (+{memory['peak'] - memory['imported']})"

    sides = ("impflow", "public", "resflow", "normflows")
    memory = [
        (row["case"], *(peak(row["case"], "train", side) for side in sides))
        for row in figures
        if (row["task"], row["side"]) == ("train", "impflow")
    ]
    return {
        "speed table": markdown(
            "case | task | ImpFlow | public | times faster | errors of both | "
            "ResFlow | normflows | times faster",
            speed,
        ),
        "speed memory table": markdown(
            "MB in training | ImpFlow | public | ResFlow | normflows", memory
        ),
    }


def measured_last() -> list[dict[str, Any]]:
    """What `--publish` kept."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / "speed.json").read_text())
    return rows


def main() -> None:
    from cases import CASES

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--public", type=Path, metavar="FOLDER")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--times", help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.times:
        print(json.dumps(measure_times(options.times, options.repeats, options.public)))
        return
    if options.memory:
        print(json.dumps(measure_memory(*options.memory, options.public)))
        return
    if options.public:
        from public_code import NoCheckoutError, read_code

        try:
            read_code(options.public)
        except NoCheckoutError as error:
            parser.error(str(error))
    print(__doc__)
    print("case        side      task       CPU ms [quartiles]".ljust(60), end="")
    print(" passes evals  vjps  peak MB (+ over imports)")
    figures = []
    code = ["--public", str(options.public)] if options.public else []
    for case in options.cases:
        for row in in_process("--times", case, "--repeats", str(options.repeats), *code):
            row["memory"] = in_process("--memory", case, row["side"], row["task"], *code)
            print(report(row), flush=True)
            figures.append(row)
        if not options.public:
            for row in measured_last():
                if (row["case"], row["side"]) == (case, "public"):
                    print(report(row), "(measured before)")
    if options.publish:
        rest = [row for row in measured_last() if row["case"] not in options.cases]
        figures = sorted([*figures, *rest], key=lambda row: list(CASES).index(row["case"]))
        publish(README, tables(figures), figures, "speed")


if __name__ == "__main__":
    main()
