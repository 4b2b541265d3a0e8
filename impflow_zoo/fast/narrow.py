"""Convolutions between many channels and very few, as they stand at both ends of nets on images.

Libraries compute output channels in groups of 16, most of which would be padding here. One matrix
product for all positions of the kernel, and a sum of shifted planes, take a third of the time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

Region = tuple[slice, slice]


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
    pixels = x.permute(0, 2, 3, 1).reshape(-1, inner)
    taps = weight.permute(2, 3, 0, 1).reshape(-1, inner)
    planes = torch.mm(taps, pixels.mT).view(k, k, out, rows, height, width)
    total = planes[k // 2, k // 2]
    for i, j, (at, to) in _shifts(k, height, width):
        total[..., to[0], to[1]].add_(planes[i, j][..., at[0], at[1]])
    return total.transpose(0, 1).contiguous()


def narrow_weight_gradient(grad: Tensor, x: Tensor, kernel: int) -> Tensor:
    """The gradient by the weight, `[out, in, k, k]`, of `convolve_narrow`.

    Arguments:
        grad: gradient of its result, `[B, out, H, W]`.
        x: its images, `[B, in, H, W]`.
        kernel: the size k.
    """
    rows, out, height, width = grad.shape
    planes = grad.new_zeros(kernel, kernel, out, rows, height, width)
    source = grad.transpose(0, 1)
    planes[kernel // 2, kernel // 2] = source
    for i, j, (at, to) in _shifts(kernel, height, width):
        planes[i, j][..., at[0], at[1]] = source[..., to[0], to[1]]
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    taps = torch.mm(planes.view(kernel * kernel * out, len(pixels)), pixels)
    return taps.view(kernel, kernel, out, x.shape[1]).permute(2, 3, 0, 1)


def _shifts(
    kernel: int, height: int, width: int
) -> Iterator[tuple[int, int, tuple[Region, Region]]]:
    """Positions in the kernel but the middle one, the pixels they read and those they add to."""
    for i in range(kernel):
        for j in range(kernel):
            if (i, j) != (kernel // 2, kernel // 2):
                (rows, to_rows), (columns, to_columns) = (
                    _shift(i - kernel // 2, height),
                    _shift(j - kernel // 2, width),
                )
                yield i, j, ((rows, columns), (to_rows, to_columns))


def _shift(by: int, size: int) -> tuple[slice, slice]:
    inside = max(size - abs(by), 0)
    at, to = max(by, 0), max(-by, 0)
    return slice(at, at + inside), slice(to, to + inside)
