"""Ours beside spline flows: test values, and minutes until the spline flow's best validation value.

    python benchmarks/which_flow.py --data kin8nm power-plant protein bsds300 --publish
    python benchmarks/beside_splines.py

Writes a table and a picture of the guide, from the scores and validation curves of the zoo's
folders, `impflow-NAME`, `resflow-NAME` and `spline-NAME`. Nothing is measured here: a curve is the
best value so far, against the minutes of a training that `which_flow.py` has measured.
"""

from __future__ import annotations

import argparse
from typing import Any

from documents import ROOT, markdown, show
from impflow_zoo.zoo.pairs import lead
from which_flow import kept

from impflow_zoo.evaluation.standard_errors import clustered
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.models.registry import zoo_folder
from impflow_zoo.zoo.record import Record

GUIDE = ROOT / "docs" / "which-net.md"
PICTURE = ROOT / "docs" / "pictures" / "beside-splines.png"
FAMILIES = {"impflow": "ImpFlow", "resflow": "ResFlow", "spline": "spline flow"}
DATA = ("kin8nm", "power-plant", "protein", "bsds300")

Curve = list[tuple[float, float]]


def records(name: str) -> dict[str, Record]:
    """The models of a data set."""
    return {f: Record(ModelFolder.open(zoo_folder() / f"{f}-{name}")) for f in FAMILIES}


def curves(name: str, figures: list[dict[str, Any]]) -> dict[str, Curve]:
    """Minutes and the best validation value so far, for each model of a data set."""
    minutes = {figure["model"]: figure["minutes"] for figure in figures}
    found: dict[str, Curve] = {}
    for family, record in records(name).items():
        curve = found[family] = []
        for rows, _, value in record.facts.curve:
            reached = max(value, curve[-1][1]) if curve else value
            curve.append((minutes[record.name] * rows / record.facts.rows_seen, reached))
    return found


def table(figures: list[dict[str, Any]]) -> str:
    """Test values, the paired lead over the spline flow, and minutes until its best validation."""
    rows = []
    for name in DATA:
        own, found = records(name), curves(name, figures)
        gain, error, _ = lead((own["impflow"], own["spline"]))
        goal = found["spline"][-1][1]
        rows.append(
            (
                f"{name}{clustered(own['impflow'].entry.groups)}",
                *(_score(record) for record in own.values()),
                f"{gain:+.3f} ± {error:.3f}",
                *(_minutes(found[f], goal) for f in FAMILIES),
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
    return {"splines table": table(figures)}


def _score(record: Record) -> str:
    """The score, of several seeds the mean, with its standard error over rows or groups."""
    mean = (record.over_seeds or (record.entry.value,))[0]
    return f"{mean:.3f} ± {record.entry.stderr:.3f}"


def _minutes(curve: Curve, goal: float) -> str:
    """When a curve first was as good as a value."""
    return next((f"{minutes:.1f}" for minutes, value in curve if value >= goal), "not reached")


def draw(figures: list[dict[str, Any]]) -> None:
    """Value against minutes, a plot for each data set."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(4 * len(DATA), 3.2), layout="constrained")
    for axes, name in zip(picture.subplots(1, len(DATA)), DATA, strict=True):
        found = curves(name, figures)
        for family, curve in found.items():
            axes.plot(*zip(*curve, strict=True), label=FAMILIES[family])
        axes.axhline(found["spline"][-1][1], color="grey", linewidth=0.8, linestyle=":")
        best = max(curve[-1][1] for curve in found.values())
        early = min(curve[len(curve) // 8][1] for curve in found.values())
        axes.set_ylim(early, best + 0.05 * (best - early))
        axes.set_title(name)
        axes.set_xlabel("minutes of one thread")
        axes.set_ylabel("validation, nats")
        axes.legend(fontsize=8, loc="lower right")
    picture.savefig(PICTURE, dpi=110)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    figures = kept()
    print(*tables(figures).values())
    show(GUIDE, tables(figures))
    draw(figures)


if __name__ == "__main__":
    main()
