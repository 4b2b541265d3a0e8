"""How much of its Lipschitz bound a trained model uses: local norms of its nets at held-out rows.

    python benchmarks/slack.py impflow-checkerboard impflow-protein=FOLDER [--rows 500] [--publish]

A local norm is the largest singular value of a net's Jacobian at a point where the model evaluates
the net. FOLDER holds the data of a model; toys need none.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import torch
from documents import ROOT, markdown, publish
from torch import Tensor

from impflow_zoo import create_model, evaluate
from impflow_zoo.evaluation import shown_rows
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.mistakes import in_one_line
from impflow_zoo.transforms.base import ResidualBlock
from impflow_zoo.transforms.binding import bind

GUIDE = ROOT / "docs" / "which-net.md"
HEADER = "model | nets | parameters | bound | mean local norm | largest, median over nets | result"


@torch.no_grad()
def local_norms(model: FlowModel, rows: Tensor) -> Iterator[Tensor]:
    """For every net of a model of rows the local norms, `[B]`, at the points of some data."""
    value = rows.to(next(model.parameters()))
    for step in model.flow._transform._transforms:
        before, value = value, step(value)[0]
        if isinstance(step, ResidualBlock):
            for part in step.steps:
                point = value if part.inverted else before
                jacobian = bind(getattr(step, part.net), None).linearize(point).jacobian()
                yield torch.linalg.matrix_norm(jacobian, 2)


def measure(name: str, data: str | None, count: int) -> dict[str, Any]:
    """The figures of one model."""
    model = create_model(name)
    result = evaluate(model, data, "test" if data else None, progress=False)
    norms = torch.stack(list(local_norms(model, shown_rows(model, result, count))))
    return {
        "model": name.rsplit("/", 1)[-1],
        "nets": model.config.net,
        "frequency": model.config.frequency,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bound": model.config.lipschitz,
        "mean": float(norms.mean()),
        "largest": statistics.median(norms.amax(dim=1).tolist()),
        "value": result.value,
        "unit": "bits" if result.metric == "bits" else "nats",
    }


def tables(figures: list[dict[str, Any]]) -> dict[str, str]:
    """The table of the guide."""
    rows = [
        (
            f["model"],
            f["nets"] + (f", frequency {f['frequency']:g}" if f["frequency"] else ""),
            f"{f['parameters']:,}",
            f"{f['bound']:g}",
            f"{f['mean']:.3f}",
            f"{f['largest']:.2f}",
            f"{f['value']:.3f} {f['unit']}",
        )
        for f in figures
    ]
    return {"slack table": markdown(HEADER, rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="NAME or NAME=DATA")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--publish", action="store_true", help="write the guide's table")
    options = parser.parse_args()
    figures = []
    for model in options.models:
        name, _, data = model.partition("=")
        figures.append(measure(name, data or None, options.rows))
    (table,) = tables(figures).values()
    print(table)
    if options.publish:
        publish(GUIDE, tables(figures), figures, "slack")


if __name__ == "__main__":
    with in_one_line():
        main()
