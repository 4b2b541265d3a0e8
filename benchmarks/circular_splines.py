"""Flows on a torus: ours beside zuko's circular spline flow, on the same rows, in the same minutes.

    python benchmarks/circular_splines.py [--publish]

The circular spline flow (`zuko.flows.NCSF`) is trained here, with the batches, rates and average of
our recipes, for as much CPU time as ImpFlow's recipe takes: its steps times the time of a step,
measured first. Ours are read from the zoo.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from documents import ROOT, markdown, publish
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from which_flow import step_seconds
from zuko.flows import NCSF

from impflow_zoo import create_model
from impflow_zoo.data import open_source
from impflow_zoo.data.torus import log_density
from impflow_zoo.evaluation.standard_errors import standard_error
from impflow_zoo.models.registry import zoo_folder
from impflow_zoo.training.recipe import read_recipe

SMOKE = "IMPFLOW_ZOO_SMOKE" in os.environ  # a test run: as little as possible

GUIDE = ROOT / "docs" / "columns.md"
PICTURE = ROOT / "docs" / "pictures" / "torus.png"
OURS = ("ImpFlow", "ResFlow")
PEER = "circular splines (zuko)"
LogProb = Callable[[Tensor], Tensor]  # of angles in degrees, [N, 2]


def angles(rows: Tensor) -> Tensor:
    """Degrees from 0 to 360 as zuko takes them: radians from -pi to pi."""
    return torch.deg2rad(rows.float()) - math.pi


def train(seconds: float, bins: int) -> tuple[NCSF, int]:
    """A circular spline flow, trained for so much CPU time, and its steps."""
    recipe = read_recipe(zoo_folder() / "impflow-torus" / "recipe.yaml")
    settings = recipe.training
    torch.manual_seed(0)
    source = open_source("toy:torus", "train", size=recipe.data.train_rows)
    rows = angles(source.rows(range(len(source))))
    flow = NCSF(2, bins=bins, transforms=3, hidden_features=(64, 64))
    average = AveragedModel(flow, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
    optimizer = torch.optim.Adam(flow.parameters(), betas=(0.9, 0.99))
    start, steps, share = time.process_time(), 0, 0.0
    while share < 1:
        warm = min(1.0, (steps + 1) / settings.warmup_steps)
        rate = warm * settings.learning_rate * (1 + math.cos(math.pi * share)) / 2
        optimizer.param_groups[0]["lr"] = rate
        batch = rows[torch.randint(len(rows), (settings.batch_size,))]
        optimizer.zero_grad()
        (-flow().log_prob(batch).mean()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), settings.clip_norm)
        optimizer.step()
        average.update_parameters(flow)
        steps += 1
        share = (time.process_time() - start) / seconds
    return average.module, steps


def jump(log_prob: LogProb) -> float:
    """Mean difference of the log-density between both sides of a seam, in bits; the larger one."""
    line, near = torch.arange(0.5, 360), torch.full((360,), 1e-3)
    sides = [torch.stack((side, line), dim=1) for side in (near, 360 - near)]
    found = []
    for flip in (False, True):
        one, other = (log_prob(side.flip(1) if flip else side) for side in sides)
        found.append(float((one - other).abs().mean()) / math.log(2))
    return max(found)


@torch.no_grad()
def figure(name: str, flow: torch.nn.Module, log_prob: LogProb, **more: Any) -> dict[str, Any]:
    """The figures of one model on the test rows."""
    split = open_source("toy:torus", "test")
    rows = split.rows(range(200 if SMOKE else len(split)))
    truth, value = log_density(rows), log_prob(rows.float()).double()
    excess = (truth - value) / math.log(2)
    return {
        "model": name,
        "parameters": sum(p.numel() for p in flow.parameters()),
        "value": float(-value.mean()) / math.log(2),
        "excess": float(excess.mean()),
        "error": float(standard_error(excess)),
        "jump": jump(log_prob),
        **more,
    }


def measure(repeats: int, bins: int) -> tuple[list[dict[str, Any]], dict[str, LogProb]]:
    """The figures of every model, and their densities."""
    models = {name: create_model(f"{name.lower()}-torus") for name in OURS}
    recipes = {n: read_recipe(zoo_folder() / f"{n.lower()}-torus" / "recipe.yaml") for n in OURS}
    batch = models["ImpFlow"].sample(recipes["ImpFlow"].training.batch_size)
    trained = {n: (copy.deepcopy(m), recipes[n].training) for n, m in models.items()}
    seconds = step_seconds(trained, repeats, batch)
    figures, densities = [], {}
    for name, model in models.items():
        steps, densities[name] = recipes[name].training.steps, model.log_prob
        minutes = steps * seconds[name] / 60
        figures.append(figure(name, model, model.log_prob, steps=steps, minutes=minutes))
    budget = 1.0 if SMOKE else 60 * figures[0]["minutes"]
    flow, steps = train(budget, bins)
    scale = 2 * math.log(math.pi / 180)
    densities[PEER] = lambda rows: flow().log_prob(angles(rows)) + scale
    figures.append(figure(PEER, flow, densities[PEER], steps=steps, minutes=budget / 60))
    return figures, densities


def tables(figures: list[dict[str, Any]]) -> dict[str, str]:
    """The table of the guide."""
    rows = [
        (
            f["model"],
            f"{f['parameters']:,}",
            f"{f['steps']:,}",
            f"{f['minutes']:.1f}",
            f"{f['value']:.3f}",
            f"{f['excess']:.4f} ± {f['error']:.4f}",
            f"{f['jump']:.3f}",
        )
        for f in figures
    ]
    header = "model | parameters | steps | minutes | test, bits | above truth | jump at a seam"
    return {"torus table": markdown(header, rows)}


@torch.no_grad()
def draw(densities: dict[str, LogProb]) -> None:
    """The densities side by side, the true one first."""
    from matplotlib.figure import Figure

    line = torch.arange(0.5, 360, 1.5)
    grid = torch.cartesian_prod(line, line)
    picture = Figure(figsize=(3.4 * (1 + len(densities)), 3.6), layout="constrained")
    maps = {"density of the toy": log_density, **densities}
    for axes, (name, log_prob) in zip(picture.subplots(1, len(maps)), maps.items(), strict=True):
        values = log_prob(grid).view(len(line), len(line)).T
        axes.pcolormesh(line, line, values, vmin=-14, vmax=-7)
        axes.set(title=name, xlabel="phi", ylabel="psi", xticks=[0, 180, 360], yticks=[0, 180, 360])
        axes.set_aspect("equal")
    picture.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="steps that are timed")
    parser.add_argument("--bins", type=int, default=16, help="pieces of a circular spline")
    parser.add_argument("--publish", action="store_true", help="write the table and picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures, densities = measure(options.repeats, options.bins)
    print(*tables(figures).values())
    if options.publish:
        publish(GUIDE, tables(figures), figures, "circular-splines")
        draw(densities)


if __name__ == "__main__":
    main()
