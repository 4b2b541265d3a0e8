"""Images from latents: round trips, and interpolations between images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from impflow_zoo.models.flow import FlowModel

__all__ = ["through_latents"]


@torch.no_grad()
def through_latents(
    model: FlowModel, images: Tensor, steps: int | None = None
) -> tuple[Tensor, Tensor]:
    """Decode images from their own latents, and from latents between pairs of them.

    The path from one latent to another is a quarter of an ellipse, `cos(t) z + sin(t) z'`. A
    straight line would pass latents that are shorter than typical noise.

    Arguments:
        model: a model of images in evaluation mode.
        images: uint8 with shape `[N, C, H, W]`; labels, if the model takes any, are one more
            channel. The way from an image keeps its label.
        steps: number of images on the way from one to another, both ends included; None: `n`.

    Returns:
        The images decoded again, `[N, ...]`; and with `n = floor(sqrt(N))`, for each of the first
        `n` images the steps from it to one of the last `n` images, `[n steps, ...]`.

    Raises:
        SolverError: if a root is not found.
    """
    middle = torch.full(images.shape, 0.5, dtype=torch.float64)
    x, label = model.parted(model.dequantise(images, middle).to(next(model.parameters())))
    z = model.encode(x, label)
    n = math.isqrt(len(z))
    angle = torch.linspace(0, math.pi / 2, steps or n).to(z)[None, :, None]
    between = angle.cos() * z[:n, None] + angle.sin() * z[-n:, None]
    kept = None if label is None else label[:n].repeat_interleave(angle.shape[1], dim=0)
    decoded = model.decode(z, label), model.decode(between.flatten(0, 1), kept)
    return model.to_data(decoded[0]), model.to_data(decoded[1])
