"""The picture of the site's home page: noise becomes data, block by block.

Run:
    python examples/moving_picture.py --out docs/pictures/from-noise.gif
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from impflow_zoo import create_model

MODELS = ("impflow-rings", "impflow-checkerboard", "impflow-8gaussians")
POINTS, SIZE, EXTENT = 5000, 220, 4.3  # samples, pixels of a panel, half the width of a panel
LENGTH, STILL = 64, 12  # frames that move, and that stand at either end


@torch.no_grad()
def states(name: str) -> list[Tensor]:
    """Noise, the points after each part of the flow, and samples at last, `[POINTS, 2]` each."""
    model = create_model(name)
    x = torch.randn(POINTS, 2, generator=torch.Generator().manual_seed(0))
    found = [x]
    parts, *_ = model.transform.children()  # nflows keeps them in its first child
    for part in reversed(list(parts.children())):
        x, _ = part.inverse(x)
        found.append(x)
    return found


def frames(points: list[Tensor]) -> list[Tensor]:
    """The points in each frame: on straight lines from one state to the next."""
    moving = []
    for time in torch.linspace(0, len(points) - 1, LENGTH).tolist():
        at = min(int(time), len(points) - 2)
        moving.append(torch.lerp(points[at], points[at + 1], time - at))
    return [points[0]] * STILL + moving + [points[-1]] * STILL


def panel(points: Tensor) -> np.ndarray:
    """Counts of points as grey values, dark where there are many, `[SIZE, SIZE]`."""
    edges = np.linspace(-EXTENT, EXTENT, SIZE + 1)
    x, y = points.numpy().T
    counts, *_ = np.histogram2d(-y, x, bins=(edges, edges))
    return np.clip(counts / 2.0, 0, 1)


def draw(out: Path) -> None:
    """Write the animation, one panel for each model."""
    runs = [frames(states(name)) for name in MODELS]
    colours = plt.get_cmap("GnBu")
    pictures = []
    for moment in zip(*runs, strict=True):
        wide = np.concatenate([np.pad(panel(points), 4) for points in moment], axis=1)
        shades = (255 * colours(wide)[..., :3]).astype(np.uint8)
        pictures.append(Image.fromarray(shades).quantize(8))
    first, *others = pictures
    first.save(out, save_all=True, append_images=others, duration=80, loop=0, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/from-noise.gif"))
    draw(parser.parse_args().out)
