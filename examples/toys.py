"""Densities of eight two-dimensional toys by ImpFlow and ResFlow of equal size, in one picture.

    python examples/toys.py [--steps 700] [--out docs/pictures/toys.png]

Both models have eight nets of the same size: in four implicit blocks, or in eight residual blocks.
The numbers are mean log-likelihoods of 10,000 held-out points, in nats.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from impflow_zoo import ImpFlow, ResFlow, TabularConfig
from impflow_zoo.data import TOYS
from impflow_zoo.models.flow import FlowModel

PLANE = [name for name, toy in TOYS.items() if toy.columns == ("x", "y")]
MODELS: dict[str, tuple[type[FlowModel], int]] = {"ImpFlow": (ImpFlow, 4), "ResFlow": (ResFlow, 8)}
FREQUENCY = 4.0  # where the neurons start: these toys have fine structure
EXTENT = 4.2
HELD_OUT = 10_000


def rows(toy: str, n: int, generator: torch.Generator) -> Tensor:
    """Fresh points of a toy, float32 with shape `(n, 2)`."""
    return TOYS[toy].draw(n, generator).float()


def train(kind: str, toy: str, steps: int, batch_size: int = 256) -> FlowModel:
    """Fit a model to points that are drawn anew in every step."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model_class, blocks = MODELS[kind]
    config = TabularConfig(
        features=2, blocks=blocks, hidden_features=(64, 64), net="sandwich", frequency=FREQUENCY
    )
    model = model_class(config)
    model.fit_preprocessing(rows(toy, 10_000, generator))
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = -model.log_prob(rows(toy, batch_size, generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def held_out(model: FlowModel, toy: str) -> float:
    """Mean log-likelihood of points the model has not seen."""
    points = rows(toy, HELD_OUT, torch.Generator().manual_seed(2))
    return float(model.log_prob(points).mean())


@torch.no_grad()
def show_density(axes: Axes, model: FlowModel, size: int = 160) -> None:
    """The density as an image."""
    line = torch.linspace(-EXTENT, EXTENT, size)
    grid = torch.cartesian_prod(line, line)
    density = model.log_prob(grid).exp().view(size, size).T
    axes.imshow(density, origin="lower", extent=(-EXTENT, EXTENT) * 2, cmap="viridis")


def show_points(axes: Axes, points: Tensor, colour: str) -> None:
    """Points as a scatter plot."""
    axes.scatter(*points.T.numpy(), s=0.6, color=colour, linewidths=0)
    axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal")


def picture(toys: list[str], steps: int, points: int = 5000) -> Figure:
    """Data, densities and samples: one column for each toy."""
    figure = Figure(figsize=(1.6 * len(toys), 8.6), layout="constrained")
    grid = figure.subplots(5, len(toys), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    generator = torch.Generator().manual_seed(3)
    for column, toy in enumerate(tqdm(toys, unit="toy")):
        show_points(grid[0, column], rows(toy, points, generator), "#c2410c")
        grid[0, column].set_title(toy, fontsize=9)
        for row, kind in ((1, "ImpFlow"), (3, "ResFlow")):
            model = train(kind, toy, steps)
            show_density(grid[row, column], model)
            grid[row, column].set_title(f"{held_out(model, toy):.3f} nats", fontsize=8)
            show_points(grid[row + 1, column], model.sample(points, generator=generator), "#1d4ed8")
    for row, label in enumerate(
        ("data", "ImpFlow density", "ImpFlow samples", "ResFlow density", "ResFlow samples")
    ):
        grid[row, 0].set_ylabel(label, fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--toys", nargs="+", default=PLANE, choices=PLANE)
    parser.add_argument("--steps", type=int, default=700, help="optimizer steps for each model")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/toys.png"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture(options.toys, options.steps).savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
