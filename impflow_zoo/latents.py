"""Images from latents: decoded again, and on the way from one image to another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from impflow_zoo.models.flow import FlowModel

__all__ = ["through_latents"]


@torch.no_grad()
def through_latents(model: FlowModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """Decode images from their own latents, and from latents between pairs of them.

    The way from one latent to another is a quarter of an ellipse, `cos(t) z + sin(t) z'`: a
    straight line would lead through latents shorter than any that the noise draws.

    Arguments:
        model: an unconditional model of images in evaluation mode.
        images: uint8 with shape `[N, C, H, W]`.

    Returns:
        The images decoded again, `[N, ...]`; and with `n = floor(sqrt(N))`, for each of the first
        `n` images the `n` steps from it to one of the last `n` images, `[n n, ...]`.

    Raises:
        SolverError: if a root is not found.
    """
    middle = torch.full(images.shape, 0.5, dtype=torch.float64)
    z = model.encode(model.dequantise(images, middle).to(next(model.parameters())))
    n = math.isqrt(len(z))
    angle = torch.linspace(0, math.pi / 2, n).to(z)[None, :, None]
    between = angle.cos() * z[:n, None] + angle.sin() * z[-n:, None]
    return model.to_data(model.decode(z)), model.to_data(model.decode(between.flatten(0, 1)))
