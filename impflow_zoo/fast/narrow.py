"""Convolutions between many channels and very few, as they stand at both ends of nets on images.

Libraries compute output channels in groups of 16, most of which would be padding here. One matrix
product for all positions of the kernel, and a sum of shifted planes, take a third of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def is_narrow(like: Tensor, channels: int, kernel: int, padding: int) -> bool:
    """Whether this file is faster than the library: few channels, on CPU, sizes kept."""
    return channels <= 6 and 1 < kernel == 2 * padding + 1 and like.device.type == "cpu"


def convolve_narrow(x: Tensor, weight: Tensor) -> Tensor:
    """`torch.nn.functional.conv2d` with stride 1 and the padding that keeps the size.

    Arguments:
        x: images with shape `[B, in, H, W]`.
        weight: kernels with shape `[out, in, k, k]`, k odd.
    """
    rows, inner, height, width = x.shape
    out, _, k, _ = weight.shape
    taps = weight.permute(2, 3, 0, 1).reshape(-1, inner)
    planes = torch.mm(taps, _pixels(x).mT).view(k, k, out, rows, height, width)
    planes = functional.pad(planes, [k // 2] * 4)
    total = planes[0, 0, ..., :height, :width].clone()
    for i, j in _positions(k)[1:]:
        total += planes[i, j, ..., i : i + height, j : j + width]
    return total.transpose(0, 1).contiguous()


def narrow_weight_gradient(grad: Tensor, x: Tensor, kernel: int) -> Tensor:
    """The gradient by the weight, `[out, in, k, k]`, of `convolve_narrow`.

    Arguments:
        grad: gradient of its result, `[B, out, H, W]`.
        x: its images, `[B, in, H, W]`.
        kernel: the size k.
    """
    _, out, height, width = grad.shape
    padded = functional.pad(grad.transpose(0, 1), [kernel // 2] * 4)
    # The last position of the kernel reads the pixels furthest to the right.
    planes = torch.stack(
        [padded[..., i : i + height, j : j + width] for i, j in reversed(_positions(kernel))]
    )
    taps = torch.mm(planes.view(kernel**2 * out, -1), _pixels(x))
    return taps.view(kernel, kernel, out, x.shape[1]).permute(2, 3, 0, 1)


def _pixels(x: Tensor) -> Tensor:
    """`[B, C, H, W] -> [B H W, C]`."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _positions(kernel: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(kernel) for j in range(kernel)]
