"""The picture of the site's home page: noise becomes data, block by block.

The noise of the digits has a standard deviation of 0.6, which shows their more probable shapes.

Run:
    python examples/moving_picture.py --out docs/pictures/from-noise.gif
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from nflows.transforms import CompositeTransform, SqueezeTransform, Transform
from PIL import Image
from torch import Tensor, nn

from impflow_zoo import create_model

PLANES = ("impflow-rings", "impflow-checkerboard")
DIGITS = "impflow-mnist"
POINTS, SIZE, EXTENT = 5000, 224, 4.3  # samples, pixels of a panel, half the width of a panel
ROWS, TEMPERATURE = 4, 0.6  # of digits; standard deviation of their noise
LENGTH, STILL = 64, 12  # frames that move, and that stand at either end


def parts_of(transform: nn.Module) -> list[Transform]:
    """The parts of a map that are no composites, from data to noise."""
    found: list[Transform] = []
    for part in transform.children():
        nested = isinstance(part, (CompositeTransform, nn.ModuleList))
        found += parts_of(part) if nested else [part]
    return found


def states(parts: list[Transform], noise: Tensor) -> list[Tensor]:
    """The noise, and what each part makes of it, samples at last."""
    found = [noise]
    for part in reversed(parts):
        found.append(part.inverse(found[-1])[0])
    return found


def points() -> list[list[Tensor]]:
    """For each model of the plane, the states of its points, `[POINTS, 2]` each."""
    noise = torch.randn(POINTS, 2, generator=torch.Generator().manual_seed(0))
    return [states(parts_of(create_model(name).transform), noise) for name in PLANES]


def digits() -> list[Tensor]:
    """The states of digits as logits of grey values, `[ROWS * ROWS, 1, 28, 28]` each."""
    *parts, flat = parts_of(create_model(DIGITS).transform)
    noise = torch.randn(ROWS * ROWS, 28 * 28, generator=torch.Generator().manual_seed(3))
    image, _ = flat.inverse(TEMPERATURE * noise)
    found = states(parts[1:], image)  # the first part makes logits of grey values
    squeeze = SqueezeTransform()
    for i, state in enumerate(found):
        while state.shape[1] > 1:
            state, _ = squeeze.inverse(state)
        found[i] = state
    return found


def frames(moments: list[Tensor]) -> list[Tensor]:
    """The state in each frame: on straight lines from one to the next."""
    moving = []
    for time in torch.linspace(0, len(moments) - 1, LENGTH).tolist():
        at = min(int(time), len(moments) - 2)
        moving.append(torch.lerp(moments[at], moments[at + 1], time - at))
    return [moments[0]] * STILL + moving + [moments[-1]] * STILL


def panel(points: Tensor) -> np.ndarray:
    """Counts of points as grey values, dark where there are many, `[SIZE, SIZE]`."""
    edges = np.linspace(-EXTENT, EXTENT, SIZE + 1)
    x, y = points.numpy().T
    counts, *_ = np.histogram2d(-y, x, bins=(edges, edges))
    return np.clip(counts / 2.0, 0, 1)


def grid(logits: Tensor) -> np.ndarray:
    """Images as grey values beside each other, `[SIZE, SIZE]`."""
    images = logits.sigmoid().view(ROWS, ROWS, 28, 28).permute(0, 2, 1, 3).reshape(28 * ROWS, -1)
    return images.numpy().repeat(SIZE // len(images), 0).repeat(SIZE // len(images), 1)


@torch.no_grad()
def draw(out: Path) -> None:
    """Write the animation, one panel for each model."""
    runs = [[panel(x) for x in frames(moments)] for moments in points()]
    runs.append([grid(x) for x in frames(digits())])
    colours = plt.get_cmap("GnBu")
    pictures = []
    for moment in zip(*runs, strict=True):
        wide = np.concatenate([np.pad(one, 4) for one in moment], axis=1)
        shades = (255 * colours(wide)[..., :3]).astype(np.uint8)
        pictures.append(Image.fromarray(shades).quantize(8))
    first, *others = pictures
    first.save(out, save_all=True, append_images=others, duration=80, loop=0, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/from-noise.gif"))
    draw(parser.parse_args().out)
