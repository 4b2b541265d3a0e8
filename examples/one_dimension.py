"""A line with a kink that no three residual blocks fit and one implicit block represents exactly.

    python examples/one_dimension.py [--out docs/pictures/one_dimension.png]

A residual block is a monotone function with slopes below 2, so `l` blocks have slopes below `2^l`.
An implicit block can have any positive slope. If the target has the slope `L` on an interval of
length `r`, the error of the residual blocks is at least `(r / 2) (L - 2^l)` at some point (Lu et
al., 2021, section 4.2).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from impflow_zoo import ImpFlowTransform, LipschitzMLP, ResFlowTransform
from impflow_zoo.transforms.base import ResidualBlock

FLAT, STEEP = 0.1, 10.0  # slopes left and right of zero
LENGTH = 1.0  # of the interval on either side


def target(x: Tensor) -> Tensor:
    """`0.1 x` below zero, `10 x` above."""
    return torch.where(x < 0, FLAT * x, STEEP * x)


def lower_bound(blocks: int) -> float:
    """A lower bound on the error of every composition of residual blocks."""
    return max(LENGTH / 2 * (STEEP - 2**blocks), 0.0)


class Kink(nn.Module):
    """`slope |x|`."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.lipschitz = abs(slope)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x.abs()


def exact_block() -> ImpFlowTransform:
    """The target as one implicit block.

    Where the target has slope `s`, the map of `x` gets the slope `2 s / (1 + s)` and the map of
    `z` the slope `2 / (1 + s)`: both lie between 0 and 2, and their quotient is `s`. For a target
    whose two slopes are inverses of each other, both nets come out as multiples of `|x|`.
    """
    slope = 2 * STEEP / (1 + STEEP) - 1
    return ImpFlowTransform(Kink(slope), Kink(-slope)).eval()


def net() -> LipschitzMLP:
    return LipschitzMLP(1, (32, 32), "maxmin", 0.99)


def apply(blocks: Sequence[ResidualBlock], x: Tensor) -> Tensor:
    """The composition of blocks, data -> noise, and a constant that is best for it."""
    y = x
    for block in blocks:
        y = block.encode(y)
    off = target(x) - y
    return y + (off.amax() + off.amin()) / 2


def fit(blocks: Sequence[ResidualBlock], steps: int) -> Sequence[ResidualBlock]:
    """Fit blocks to the target, in the norm of the bound."""
    modules = nn.ModuleList(blocks).train()
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x = torch.linspace(-LENGTH, LENGTH, 201)[:, None]
    for _ in range(steps):
        off = apply(blocks, x) - target(x)
        loss = off.square().mean() + off.abs().amax()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    modules.eval()
    return blocks


@torch.no_grad()
def error(blocks: Sequence[ResidualBlock]) -> float:
    """Largest distance to the target between -1 and 1."""
    x = torch.linspace(-LENGTH, LENGTH, 2001)[:, None]
    return float((apply(blocks, x) - target(x)).abs().amax())


@torch.no_grad()
def show_fits(axes: Axes, fits: dict[str, Sequence[ResidualBlock]]) -> None:
    """The target and its fits."""
    x = torch.linspace(-LENGTH, LENGTH, 401)[:, None]
    axes.plot(x, target(x), color="black", linewidth=3.5, alpha=0.3, label="target")
    for label, blocks in fits.items():
        axes.plot(x, apply(blocks, x), linewidth=1.4, label=label)
    axes.set(xlabel="x", ylabel="z", title="slopes 0.1 and 10")
    axes.legend(frameon=False)


def picture(steps: int) -> Figure:
    """The fits, and their errors compared with the bound."""
    torch.manual_seed(0)
    counts = (1, 2, 3, 4)
    residual = {n: fit([ResFlowTransform(net()) for _ in range(n)], steps) for n in counts}
    implicit = fit([ImpFlowTransform(net(), net())], steps)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    show_fits(
        left,
        {
            "3 ResFlow blocks, trained": residual[3],
            "1 ImpFlow block, trained": implicit,
            "1 ImpFlow block, by hand": [exact_block()],
        },
    )
    right.bar(counts, [lower_bound(n) for n in counts], color="#d6d3d1", label="no fit gets below")
    right.plot(counts, [error(residual[n]) for n in counts], "o", label="ResFlow, trained")
    right.axhline(error(implicit), color="C1", label="1 ImpFlow block, trained")
    right.axhline(error([exact_block()]), color="C2", label="1 ImpFlow block, by hand")
    right.set(
        xlabel="residual blocks",
        xticks=counts,
        ylim=(-0.2, 4.5),
        title="largest error between -1 and 1",
    )
    right.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps for each fit")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/one_dimension.png"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture(options.steps).savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
