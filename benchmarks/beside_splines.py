"""Ours beside spline flows: test values, and rows seen until their best validation value.

    python benchmarks/beside_splines.py

Reads the scores and validation curves of the zoo's folders, `impflow-NAME`, `resflow-NAME` and
`spline-NAME`, and makes the picture and the table of the guide on nets. A curve is the best value
so far.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from documents import ROOT, markdown

from impflow_zoo.facts import TrainingFacts
from impflow_zoo.models.folder import TRAINING, ModelFolder
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.writing import write_whole
from impflow_zoo.publishing.pairs import paired_error
from impflow_zoo.recipe import read_recipe
from impflow_zoo.record import Record
from impflow_zoo.registry import zoo_folder
from impflow_zoo.tables import between

GUIDE = ROOT / "docs" / "which-net.md"
PICTURE = ROOT / "docs" / "pictures" / "beside-splines.png"
FAMILIES = {"impflow": "ImpFlow", "resflow": "ResFlow", "spline": "spline flow"}
Curve = list[tuple[int, float]]  # rows seen, best value so far


def curves(zoo: Path, name: str) -> dict[str, Curve]:
    """The curve of each family on a data set; a family without one is left out."""
    found = {}
    for family in FAMILIES:
        folder = zoo / f"{family}-{name}"
        if (folder / TRAINING).is_file():
            sign = METRICS[read_recipe(folder / "recipe.yaml").config.metric].sign
            best: Curve = []
            for rows, _, value in TrainingFacts.read(folder).curve:
                reached = value if not best else sign * max(sign * value, sign * best[-1][1])
                best.append((int(rows), reached))
            found[family] = best
    return found


def rows_until(curve: Curve, value: float, sign: float) -> int | None:
    """Rows seen when a curve first was as good as a value; None if it never was."""
    return next((rows for rows, v in curve if sign * v >= sign * value), None)


def table(zoo: Path, names: list[str]) -> str:
    """Test values, the paired lead over the spline flow, and rows until its best validation."""
    rows = []
    for name in names:
        own = {f: Record(ModelFolder.open(zoo / f"{f}-{name}")) for f in FAMILIES}
        metric = METRICS[own["spline"].recipe.config.metric]
        found = curves(zoo, name)
        goal = found["spline"][-1][1]
        scores = {f: record.entry for f, record in own.items()}
        error = paired_error(own["impflow"].folder, own["spline"].folder)
        lead = metric.sign * (scores["impflow"].value - scores["spline"].value)
        rows.append(
            (
                f"{name}, {metric.unit}",
                *(f"{score.value:.3f} ± {score.stderr:.3f}" for score in scores.values()),
                f"{lead:+.3f} ± {error:.3f}",
                *(_count(rows_until(found[f], goal, metric.sign)) for f in FAMILIES),
            )
        )
    families = FAMILIES.values()
    header = [
        "test",
        *families,
        "ImpFlow ahead of splines, paired",
        *(f"{family}, rows" for family in families),
    ]
    return markdown(" | ".join(header), rows)


def _count(rows: int | None) -> str:
    return "not reached" if rows is None else f"{rows:,}"


def draw(zoo: Path, names: list[str], path: Path) -> None:
    """Value against rows seen, a plot for each data set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(names), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        unit = METRICS[read_recipe(zoo / f"spline-{name}" / "recipe.yaml").config.metric].unit
        found = curves(zoo, name)
        for family, curve in found.items():
            axes.plot(*zip(*curve, strict=True), label=FAMILIES[family])
        axes.axhline(found["spline"][-1][1], color="grey", linewidth=0.8, linestyle=":")
        ends = [curve[-1][1] for curve in found.values()]
        spread = max(max(ends) - min(ends), 0.05)
        low, high = min(ends) - 2 * spread, max(ends) + 2 * spread
        axes.set_ylim(
            (low, max(ends) + 0.2 * spread) if unit == "nats" else (min(ends) - 0.2 * spread, high)
        )
        axes.set_title(name)
        axes.set_xlabel("rows seen")
        axes.set_ylabel(f"validation, {unit}")
        axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    zoo = zoo_folder()
    names = sorted(
        folder.name.removeprefix("spline-")
        for folder in zoo.glob("spline-*")
        if all(
            (zoo / f"{family}-{folder.name.removeprefix('spline-')}" / TRAINING).is_file()
            for family in FAMILIES
        )
    )
    if not names:
        sys.exit("no data set has weights of all three families")
    text = between(GUIDE.read_text(encoding="utf-8"), "splines table", table(zoo, names))
    write_whole(GUIDE, text.encode())
    draw(zoo, names, PICTURE)
    print(table(zoo, names))


if __name__ == "__main__":
    main()
