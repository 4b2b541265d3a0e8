"""A convolution with zero padding as a dense matrix, by its definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def matrix(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """The matrix of a convolution on images of one size, `[out H W, in H W]`."""
    entries = torch.eye(weight.shape[1] * math.prod(size), dtype=weight.dtype)
    images = entries.view(-1, weight.shape[1], *size)
    return functional.conv2d(images, weight, padding=weight.shape[-1] // 2).flatten(1).mT
