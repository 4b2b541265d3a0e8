"""Ours beside spline flows: test values, and minutes until the spline flow's best validation value.

    python benchmarks/beside_splines.py [--publish]

Reads the scores and validation curves of the zoo's folders, `impflow-NAME`, `resflow-NAME` and
`spline-NAME`. A curve is the best value so far, against the steps times the CPU time of a step.
This time is measured here, with one thread and the families in turn: a step of the trained model,
with the optimizers of its recipe, on samples of ImpFlow.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from documents import ROOT, markdown, publish
from torch import Tensor

from impflow_zoo import create_model
from impflow_zoo.facts import TrainingFacts
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import RECIPE, ModelFolder
from impflow_zoo.publishing.pairs import paired_error
from impflow_zoo.recipe import TrainingSettings, read_recipe
from impflow_zoo.record import Record
from impflow_zoo.registry import zoo_folder
from impflow_zoo.training.optimisation import optimizers

GUIDE = ROOT / "docs" / "which-net.md"
PICTURE = ROOT / "docs" / "pictures" / "beside-splines.png"
FAMILIES = {"impflow": "ImpFlow", "resflow": "ResFlow", "spline": "spline flow"}
DATA = ("kin8nm", "power-plant", "protein", "bsds300")


def step_seconds(
    trained: Mapping[str, tuple[FlowModel, TrainingSettings]], repeats: int, *batch: Tensor
) -> dict[str, float]:
    """CPU seconds of a training step with each model's optimizers, the median of several in turn.

    The models are trained on meanwhile: give copies. Of the batch, a step takes as many rows as
    its settings say.
    """
    times: dict[str, list[float]] = {name: [] for name in trained}
    optimizers_of = {
        name: optimizers(model.train(), replace(settings, learning_rate=1e-6)).values()
        for name, (model, settings) in trained.items()
    }
    for _ in range(repeats):
        for name, (model, settings) in trained.items():
            start = time.process_time()
            model.zero_grad()
            (-model.log_prob(*(part[: settings.batch_size] for part in batch)).mean()).backward()
            for optimizer in optimizers_of[name]:
                optimizer.step()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def curve(zoo: Path, family: str, name: str) -> list[tuple[int, float]]:
    """Steps and the best validation value so far."""
    folder = zoo / f"{family}-{name}"
    recipe = read_recipe(folder / RECIPE)
    best: list[tuple[int, float]] = []
    for rows, _, value in TrainingFacts.read(folder).curve:
        reached = max(value, best[-1][1]) if best else value
        best.append((int(rows) // recipe.training.batch_size, reached))
    return best


def measured(zoo: Path, repeats: int) -> list[dict[str, Any]]:
    """The figures of every data set."""
    figures = []
    for name in DATA:
        trained = {
            f: (
                create_model(zoo / f"{f}-{name}"),
                read_recipe(zoo / f"{f}-{name}" / RECIPE).training,
            )
            for f in FAMILIES
        }
        model, settings = trained["impflow"]
        seconds = step_seconds(trained, repeats, model.sample(settings.batch_size))
        curves = {
            family: [(steps * seconds[family] / 60, v) for steps, v in curve(zoo, family, name)]
            for family in FAMILIES
        }
        figures.append({"data": name, "step_seconds": seconds, "curves": curves})
    return figures


def table(zoo: Path, figures: list[dict[str, Any]]) -> str:
    """Test values, the paired lead over the spline flow, and minutes until its best validation."""
    rows = []
    for figure in figures:
        name, curves = figure["data"], figure["curves"]
        own = {f: Record(ModelFolder.open(zoo / f"{f}-{name}")) for f in FAMILIES}
        scores = {f: record.entry for f, record in own.items()}
        error = paired_error(own["impflow"].folder, own["spline"].folder)
        lead = scores["impflow"].value - scores["spline"].value
        goal = curves["spline"][-1][1]
        rows.append(
            (
                name,
                *(f"{score.value:.3f} ± {score.stderr:.3f}" for score in scores.values()),
                f"{lead:+.3f} ± {error:.3f}",
                *(_minutes(curves[f], goal) for f in FAMILIES),
            )
        )
    families = list(FAMILIES.values())
    header = [
        "test, nats",
        *families,
        "ImpFlow ahead of splines, paired",
        *(f"{family}, minutes" for family in families),
    ]
    return markdown(" | ".join(header), rows)


def tables(figures: list[dict[str, Any]]) -> dict[str, str]:
    """The table of the guide, by its marker."""
    return {"splines table": table(zoo_folder(), figures)}


def _minutes(curve: list[tuple[float, float]], goal: float) -> str:
    """When a curve first was as good as a value."""
    return next((f"{minutes:.1f}" for minutes, value in curve if value >= goal), "not reached")


def draw(figures: list[dict[str, Any]], path: Path) -> None:
    """Value against minutes, a plot for each data set."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(4 * len(figures), 3.2), layout="constrained")
    plots = picture.subplots(1, len(figures), squeeze=False)[0]
    for axes, figure in zip(plots, figures, strict=True):
        curves = figure["curves"]
        for family, curve in curves.items():
            axes.plot(*zip(*curve, strict=True), label=FAMILIES[family])
        axes.axhline(curves["spline"][-1][1], color="grey", linewidth=0.8, linestyle=":")
        ends = [curve[-1][1] for curve in curves.values()]
        spread = max(ends) - min(ends)
        axes.set_ylim(min(ends) - 2 * spread, max(ends) + 0.2 * spread)
        axes.set_title(figure["data"])
        axes.set_xlabel("minutes of one thread")
        axes.set_ylabel("validation, nats")
        axes.legend(fontsize=8, loc="lower right")
    picture.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="steps that are timed")
    parser.add_argument(
        "--publish", action="store_true", help="write the guide's table and picture"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = measured(zoo_folder(), options.repeats)
    print(*tables(figures).values())
    if options.publish:
        publish(GUIDE, tables(figures), figures, "beside-splines")
        draw(figures, PICTURE)


if __name__ == "__main__":
    main()
