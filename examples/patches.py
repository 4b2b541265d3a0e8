"""Patches of photographs: the BSDS300 density benchmark, made from the photographs themselves.

The published set was drawn without a recorded seed and is passed on as one large file. These are
other rows of the same distribution: say "BSDS300 (rebuilt)" of a number measured on them.

References:
    A Database of Human Segmented Natural Images and its Application to Evaluating Segmentation
    Algorithms and Measuring Ecological Statistics, Martin et al., 2001,
    https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/

    From Learning Models of Natural Image Patches to Whole Image Restoration, Zoran and Weiss, 2011,
    https://doi.org/10.1109/ICCV.2011.6126278

    Masked Autoregressive Flow for Density Estimation, Papamakarios et al., 2017,
    https://arxiv.org/abs/1705.07057

    Fast Splittable Pseudorandom Number Generators, Steele, Lea and Flood, 2014,
    https://doi.org/10.1145/2660193.2660195
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from impflow_zoo.data import DataError
from impflow_zoo.data.images import image_column
from impflow_zoo.data.loading import find_images
from impflow_zoo.numerics.seeds import mix

__all__ = ["SIZES", "cut", "keyed_uniform", "mirrored", "photographs_of", "read"]

SIZES = {"train": 1_000_000, "validation": 50_000, "test": 250_000}
SIDE = 8
GREY = (0.2989, 0.5870, 0.1140)
EVERY = 10  # one training photograph in so many is kept for validation
AT_ONCE = 50_000  # patches cut at a time
NUMBERS = 3 + SIDE**2  # random numbers of a row: photograph, top, left, and noise of each pixel


def read(photographs: str, split: str, size: int) -> tuple[Tensor, Tensor]:
    """Cut the patches of a split from a set with a column of images.

    Training and validation patches come from different photographs of the `train` split: every
    tenth is kept for validation (of BSDS300's 200: 180 and 20). Test patches come from `test`.

    Returns:
        The patches, float32 `(n, 63)`, and which photograph of `train` or `test` each is from,
        counted from 0, int64 `(n,)`.
    """
    found = find_images(photographs, "test" if split == "test" else "train")
    data, name = found.data, found.name
    column = image_column(data.features, name)
    grey, numbers = [], []
    for i, row in enumerate(data):
        if split == "test" or (i % EVERY == EVERY - 1) == (split == "validation"):
            colours = numpy.asarray(row[column].convert("RGB"))
            rounded = numpy.rint(colours @ numpy.array(GREY))  # as the published patches are
            grey.append(torch.from_numpy(rounded.astype(numpy.uint8)))
            numbers.append(i)
    seed = mix(0, list(SIZES).index(split))
    patches = cut(grey, size, seed)
    return patches, torch.tensor(numbers)[photographs_of(torch.arange(size), len(grey), seed)]


def cut(photographs: list[Tensor], size: int, seed: int) -> Tensor:
    """Random 8x8 patches, each a function of the seed and its row number.

    A row is the grey values `(v + u) / 256`, `u` uniform on `[0, 1)`, minus their mean, in reading
    order and without the last pixel, which the others determine. Every photograph is as likely as
    another, and so is every position in it.

    Arguments:
        photographs: grey values, uint8, each with shape `(H, W)`.
        size: number of patches.
        seed: of positions and noise; fewer patches of the same seed are the first ones of more.

    Returns:
        Float32 with shape `(size, 63)`.
    """
    if any(min(p.shape) < SIDE for p in photographs) or not photographs:
        raise DataError(f"photographs of at least {SIDE}x{SIDE} pixels are needed")
    pixels = torch.cat([p.flatten() for p in photographs])
    shapes = torch.tensor([p.shape for p in photographs])
    starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
    across = torch.arange(SIDE)
    parts = []
    for rows in torch.arange(size).split(AT_ONCE):
        random = keyed_uniform(mix(seed), rows, NUMBERS)
        photograph = photographs_of(rows, len(shapes), seed)
        height, width = shapes[photograph].unbind(1)
        top = (random[:, 1] * (height - SIDE + 1)).long()
        left = (random[:, 2] * (width - SIDE + 1)).long()
        corner = starts[photograph] + top * width + left
        lines = corner[:, None] + width[:, None] * across
        grey = pixels[(lines[:, :, None] + across).flatten(1)]
        values = (grey + random[:, 3:]) / 256
        parts.append((values - values.mean(1, keepdim=True))[:, :-1].float())
    return torch.cat(parts)


def mirrored(patches: Tensor) -> Tensor:
    """Patches and their mirror images: as they are, left to right, and upside down.

    The pixel that rows lack is minus the sum of the others, as their mean is zero. So mirroring is
    a linear map of determinant 1 or -1, and it changes no density that is symmetric.

    Arguments:
        patches: rows of `cut`, with shape `(n, 63)`.

    Returns:
        The three forms, one after the other, `(3 n, 63)`.
    """
    whole = torch.cat([patches, -patches.sum(1, keepdim=True)], 1).view(-1, SIDE, SIDE)
    forms = [whole.flip(axes) for axes in ((), (2,), (1,))]
    return torch.cat([form.flatten(1)[:, :-1] for form in forms])


def photographs_of(rows: Tensor, count: int, seed: int) -> Tensor:
    """Which of `count` photographs each of some rows of `cut` is from, `(n,)`, by row numbers."""
    first = keyed_uniform(mix(seed), rows * NUMBERS, 1)  # of the numbers of a row
    return (first[:, 0] * count).long()


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


STEP = _signed(0x9E3779B97F4A7C15)
FIRST = _signed(0xBF58476D1CE4E5B9)
SECOND = _signed(0x94D049BB133111EB)


def keyed_uniform(seed: int, rows: Tensor, count: int) -> Tensor:
    """Numbers of some rows: entry `j` of row `i` is output `i * count + j` of splitmix64.

    Arguments:
        seed: where the stream starts, `0 <= seed < 2**63`.
        rows: row numbers, int64 with shape `(n,)`.
        count: how many numbers a row has.

    Returns:
        Numbers in `[0, 1)`, float64 with shape `(n, count)`.
    """
    counter = rows[:, None] * count + torch.arange(1, count + 1)
    state = seed + counter * STEP  # int64 arithmetic wraps, as splitmix64 wants it
    state = (state ^ _shift(state, 30)) * FIRST
    state = (state ^ _shift(state, 27)) * SECOND
    state = state ^ _shift(state, 31)
    return _shift(state, 11).double() * 2.0**-53


def _shift(state: Tensor, bits: int) -> Tensor:
    """Shift right as if unsigned: torch's shift of int64 drags the sign along."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
