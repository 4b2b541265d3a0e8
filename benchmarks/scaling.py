"""How a training step's time and memory grow with features, width, blocks, batch and kappa.

    python benchmarks/scaling.py [--out docs/pictures/scaling.png] [--json FILE]

One size changes at a time, around 6 features, width 128, 4 blocks, 500 rows and kappa 0.9; kappa
itself with 48 features, since with few Anderson mixing makes no difference of it. Every
point has a process of its own; times are CPU times of one thread. Weights are orthogonal and the
rows lie where sines are steep, so that the nets contract no faster than kappa says.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from cases import Case, make_side
from speed import in_process, peak_memory, timed

from impflow_zoo import LogDet
from impflow_zoo.lipschitz.norms import LipschitzLayer

SMOKE = "IMPFLOW_ZOO_SMOKE" in os.environ  # a test run: as little as possible

BASE = {"features": 6, "width": 128, "blocks": 4, "batch": 500, "kappa": 0.9}
KAPPA_FEATURES = 48
AXES: dict[str, list[float]] = {
    "features": [2, 3, 5, 7, 10, 14, 24, 48, 96],
    "width": [32, 64, 128, 256, 512],
    "blocks": [1, 2, 4, 8, 16],
    "batch": [50, 150, 500, 1500, 5000],
    "kappa": [0.5, 0.8, 0.9, 0.97, 0.99],
}
if SMOKE:
    AXES = {name: [values[0], values[-1]] for name, values in AXES.items()}


def measure(sizes: dict[str, float], repeats: int = 5) -> dict[str, float]:
    """Time of a step, and the memory it took beyond the model, in this process."""
    torch.set_num_threads(1)
    case = Case(
        (int(sizes["features"]),),
        int(sizes["blocks"]),
        (int(sizes["width"]),) * 2,
        int(sizes["batch"]),
        lipschitz=sizes["kappa"],
    )
    side = make_side("impflow", case)
    with torch.no_grad():
        for layer in side.modules.modules():
            if isinstance(layer, LipschitzLayer):
                torch.nn.init.orthogonal_(layer.weight)
                layer.bias.zero_()
        side.x.mul_(0.1)
    side.prepare("train")
    before = peak_memory()
    side.run("train")
    seconds = [timed(side.run, "train") for _ in range(repeats)]
    return {"ms": 1e3 * statistics.median(seconds), "mb": peak_memory() - before}


def draw_picture(figures: dict[str, list[dict[str, Any]]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(AXES), figsize=(15, 3.4), layout="constrained")
    for panel, (name, points) in zip(panels, figures.items(), strict=True):
        at = [1 / (1 - p["at"]) if name == "kappa" else p["at"] for p in points]
        panel.plot(at, [p["ms"] for p in points], marker="o", label="step, CPU ms")
        panel.plot(at, [p["mb"] for p in points], marker="s", label="memory, MB")
        panel.set(xscale="log", yscale="log", ylim=(5, 1000))
        panel.set_xlabel(f"kappa, {KAPPA_FEATURES} features" if name == "kappa" else name)
        panel.set_xticks(at, [f"{p['at']:g}" for p in points], fontsize=8)
        panel.minorticks_off()
        panel.grid(visible=True, which="major", alpha=0.3)
    first = min(n for n in AXES["features"] if LogDet().resolve(int(n), training=True) != "exact")
    panels[0].axvline(first, color="grey", linestyle=":")
    panels[0].text(1.05 * first, 6, "unbiased\nfrom here", fontsize=8, color="grey")
    panels[0].legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/scaling.png"))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(json.loads(options.point))))
        return
    figures: dict[str, list[dict[str, Any]]] = {}
    for name, values in AXES.items():
        figures[name] = []
        for value in values:
            sizes = {**BASE, name: value}
            if name == "kappa":
                sizes["features"] = KAPPA_FEATURES
            point = {"at": value, **in_process("--point", json.dumps(sizes), script=__file__)}
            figures[name].append(point)
            print(f"{name:9} {value:7g} {point['ms']:9.1f} ms {point['mb']:7.1f} MB", flush=True)
    draw_picture(figures, options.out)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
