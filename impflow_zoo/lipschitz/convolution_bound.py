"""Upper bounds of the norm of a convolution with zero padding, proved in float64."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["convolution_norm_bound"]

_FACTORED = 2**27  # numbers in a banded matrix up to which a Cholesky factor proves the bound
_ROWS = 2**16  # of this matrix: with more, the bound on rounding would exceed 1e-6


def convolution_norm_bound(
    weight: Tensor, image_size: tuple[int, int], estimate: Callable[[int], float]
) -> float:
    """An upper bound on the norm of a convolution on images of one size.

    The matrix `t I - A^T A` is banded: a row of the image interacts only with its neighbours. A
    blockwise Cholesky factorisation proves that it is positive definite, so `sqrt(t)` exceeds the
    norm, by less than 1e-6 of it. This takes up to 20 seconds (3x3). Larger layers would take
    minutes. Their bound is the norm of a circular convolution, which contains the padded one. For
    random kernels of 128 channels it exceeds the norm by 0.3 % (3x3) and 1 % (5x5) at 16x16.

    References:
        The Singular Values of Convolutional Layers (Sedghi et al., 2018)
        https://arxiv.org/abs/1805.10408

        Verification of Positive Definiteness (Rump, 2006)
        https://doi.org/10.1007/s10543-006-0056-1

    Arguments:
        weight: kernels in float64, with shape `[out, in, k, k]`, k odd.
        image_size: height and width.
        estimate: computes an approximation of the norm, from a Krylov subspace of some steps. A
            less accurate number costs time and digits, but the bound stays valid.
    """
    height, width = image_size
    if height < width:
        weight, height, width = weight.mT, width, height
    if weight.shape[0] < weight.shape[1]:
        weight = weight.transpose(0, 1).flip(2, 3)  # the adjoint, which has the same norm
    outputs, inputs = weight.shape[0] * width, weight.shape[1] * width
    entries, band = height * inputs, min(weight.shape[2], height) * inputs
    if band * max(entries, outputs) <= _FACTORED and entries <= _ROWS:
        gram = _gram(weight, height, width)
        rounding = entries * (entries + weight[:, 0].numel()) * torch.finfo(weight.dtype).eps
        for steps, slack in ((30, 1e-7), (300, 1e-7), (300, 1e-5), (300, 1e-3)):
            bound = estimate(steps) ** 2 * (1 + slack)
            if _exceeds(bound, gram):
                return math.sqrt(bound * (1 + rounding))
    moves = itertools.product((0.0, 0.5), (0.0, 0.5))
    return min(_circular_norm(weight, (height, width), move) for move in moves) * (1 + 1e-12)


def _gram(weight: Tensor, height: int, width: int) -> list[list[Tensor]]:
    """The blocks of `A^T A` on and below the diagonal: `[s][d]` is that of rows `s + d` and `s`."""
    taps, inputs = weight.shape[2], weight.shape[1] * width
    pixels = torch.eye(inputs, dtype=weight.dtype, device=weight.device)
    images = pixels.view(inputs, weight.shape[1], width)
    rows = [
        functional.conv1d(images, weight[:, :, i], padding=taps // 2).flatten(1)
        for i in range(taps)
    ]
    products = {
        (i, j): rows[i] @ rows[j].mT for i, j in itertools.product(range(taps), repeat=2) if i >= j
    }
    zero = torch.zeros_like(pixels)
    # Row `s` of the input is seen by row `r` of the output through tap `s - r + taps // 2`.
    return [
        [
            sum(
                (products[i + d, i] for i in range(taps - d) if 0 <= s - i + taps // 2 < height),
                start=zero,
            )
            for d in range(min(taps, height - s))
        ]
        for s in range(height)
    ]


def _exceeds(bound: float, gram: list[list[Tensor]]) -> bool:
    """Whether `bound I` less the matrix has a Cholesky factor."""
    factor: deque[list[Tensor]] = deque(maxlen=len(gram[0]) - 1)  # columns that are still needed
    for blocks in gram:
        column = [-block for block in blocks]
        column[0].diagonal().add_(bound)
        for distance, past in enumerate(reversed(factor), start=1):
            earlier = past[distance:]
            for d, block in enumerate(earlier):
                column[d] -= block @ earlier[0].mT
        pivot, failed = torch.linalg.cholesky_ex(column[0])
        if int(failed):
            return False
        below = [
            torch.linalg.solve_triangular(pivot, block.mT, upper=False).mT for block in column[1:]
        ]
        factor.append([pivot, *below])
    return True


def _circular_norm(weight: Tensor, image_size: tuple[int, int], move: tuple[float, float]) -> float:
    """The norm of the circular convolution of images that are `k - 1` larger.

    A kernel multiplied by `exp(i (s y + t x))` has the same norm with zero padding, and its
    frequencies are moved by `(s, t)`: here by parts of a step.
    """
    taps = torch.arange(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    size = [n + len(taps) - 1 for n in image_size]
    rows, columns = (
        torch.exp(2j * math.pi * part / n * taps) for part, n in zip(move, size, strict=True)
    )
    kernel = weight * rows[:, None] * columns
    spectrum = torch.fft.fft2(kernel, s=size).flatten(2).permute(2, 0, 1)  # [F, out, in]
    parts = spectrum.split(64)  # bounds memory
    return max(float(torch.linalg.eigvalsh(p.mH @ p)[:, -1].amax()) for p in parts) ** 0.5
