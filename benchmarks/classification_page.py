"""The table and the picture of notebook/classification.md, from the results of runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import documents

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = documents.ROOT / "benchmarks" / "notebook" / "classification.md"
PICTURE = documents.ROOT / "docs" / "pictures" / "classification.png"
ROWS = 48_000  # of CIFAR-10, without those of validation
MARKER, KEPT = "classification table", "classification"
LABELS = {"implicit": "implicit", "residual": "residual", "unconstrained": "no bound"}

Run = dict[str, Any]


def write_page(results: Sequence[Run]) -> None:
    """Keep results, beside kept ones of other settings, and write the table and the picture.

    Raises:
        ValueError: if there are none.
    """
    kept = documents.RESULTS / f"{KEPT}.json"
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    results = list({settings(run): run for run in [*before, *results]}.values())
    documents.publish(PAGE, tables(results), results, KEPT)
    picture(results).savefig(PICTURE, dpi=110)


def tables(results: Sequence[Run]) -> dict[str, str]:
    """The table of the notebook, by its marker."""
    return {MARKER: table(results)}


def settings(run: Run) -> tuple[Any, ...]:
    """All settings of a run, which no other has."""
    names = ("width", "steps", "batch_size", "rate", "kind", "bound", "seed")
    return tuple(run[name] for name in names)


def groups(results: Sequence[Run]) -> dict[tuple[Any, ...], list[Run]]:
    """Runs that differ by their seed alone, by their other settings.

    The longest come first, then those without a bound, then falling bounds.
    """
    ordered = sorted(
        results,
        key=lambda run: (-run["steps"], -(run["bound"] or 1.0), run["kind"], run["seed"]),
    )
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in ordered:
        found.setdefault(settings(run)[:-1], []).append(run)
    return found


def error(runs: Sequence[Run]) -> tuple[float, float]:
    """Test error in percent, mean over seeds, and its standard error, of test rows and seeds.

    Seeds share the test rows, whose part of it does not shrink with the number of seeds.
    """
    errors = [100 * run["test"]["error"] for run in runs]
    mean = math.fsum(errors) / len(errors)
    rows = mean * (100 - mean) / runs[0]["test"]["rows"]
    spread = math.fsum((e - mean) ** 2 for e in errors) / max(len(errors) - 1, 1)
    return mean, math.sqrt(rows + spread / len(errors))


def table(results: Sequence[Run]) -> str:
    """A row for each kind and bound."""
    lines = [
        "| passes | channels | blocks | c | seeds | test error, % "
        "| evaluations for a root: training | test | ms a step |",
        "|" + "---|" * 9,
    ]
    for (width, steps, batch_size, _, kind, bound), runs in groups(results).items():
        mean, stderr = error(runs)
        cells = [
            f"{steps * batch_size / ROWS:.1f}",
            str(width),
            LABELS[kind],
            f"{bound:g}" if bound else "",
            str(len(runs)),
            f"{mean:.1f} ± {stderr:.1f}",
            average(runs, lambda run: run["iterations"], digits=1),
            average(runs, lambda run: run["test"]["iterations"], digits=1),
            average(runs, lambda run: 1e3 * run["seconds_per_step"], digits=0),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def average(runs: Sequence[Run], of: Callable[[Run], float | None], *, digits: int) -> str:
    """The mean of a figure over runs; nothing where they do not have it."""
    figures = [figure for run in runs if (figure := of(run)) is not None]
    return f"{math.fsum(figures) / len(figures):.{digits}f}" if figures else ""


def picture(results: Sequence[Run]) -> Figure:
    """Test errors over bounds, with standard errors, of the shortest training, which has most."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    shortest = min(run["steps"] for run in results)
    found = {
        (kind, bound): runs
        for (_, steps, _, _, kind, bound), runs in groups(results).items()
        if steps == shortest
    }
    axes = figure.subplots()
    for kind in ("implicit", "residual"):
        points = [
            (bound, *error(runs)) for (k, bound), runs in found.items() if k == kind and bound
        ]
        if points:
            bounds, errors, stderrs = zip(*points, strict=True)
            axes.errorbar(bounds, errors, stderrs, marker="o", capsize=3, label=LABELS[kind])
    if ("unconstrained", None) in found:
        mean, stderr = error(found["unconstrained", None])
        axes.axhline(mean, color="0.4", label=LABELS["unconstrained"])
        axes.axhspan(mean - stderr, mean + stderr, color="0.9")
    axes.set(xlabel="Lipschitz constant c of every convolution", ylabel="test error, %")
    axes.legend(frameon=False)
    return figure
