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
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from impflow_zoo.data.images import image_column
from impflow_zoo.data.keyed import keyed_uniform
from impflow_zoo.data.loading import load_split, one_line, pick_split
from impflow_zoo.data.source import DataError, index_tensor
from impflow_zoo.numerics.seeds import mix

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["PATCHES", "PatchSource", "open_patches"]

PATCHES = {"train": 1_000_000, "validation": 50_000, "test": 250_000}
_SIDE = 8
_GREY = (0.2989, 0.5870, 0.1140)
_EVERY = 10  # one training photograph in so many is kept for validation


class PatchSource:
    """Random 8x8 patches, each a function of the seed and its row number, made when asked for.

    A row is the grey values `(v + u) / 256`, `u` uniform on `[0, 1)`, minus their mean, in reading
    order and without the last pixel, which the others determine. Every photograph is as likely as
    another, and so is every position in it. Only the photographs are kept in memory.

    Arguments:
        name: what it is, for messages and results.
        photographs: grey values, uint8, each with shape `(H, W)`.
        size: number of patches.
        seed: of positions and noise; a smaller set of the same seed is the beginning of a larger.

    Raises:
        DataError: without photographs, for one smaller than a patch, or a size below one.
    """

    def __init__(self, name: str, photographs: Iterable[Tensor], size: int, seed: int = 0) -> None:
        if size < 1:
            raise DataError(f"{name}: the size has to be at least 1, not {size}")
        pixels, shapes = [], []
        for i, photograph in enumerate(photographs):
            height, width = photograph.shape
            if min(height, width) < _SIDE:
                raise DataError(
                    f"{name}: photograph {i} is {height}x{width}, "
                    f"smaller than a patch of {_SIDE}x{_SIDE}: leave it out"
                )
            pixels.append(photograph.flatten())
            shapes.append((height, width))
        if not shapes:
            raise DataError(f"{name}: there are no photographs")
        self.name = name
        self.columns = tuple(f"pixel{i}" for i in range(_SIDE**2 - 1))
        self._size = size
        self._seed = seed
        self._pixels = torch.cat(pixels)
        self._shapes = torch.tensor(shapes)
        self._starts = self._shapes.prod(1).cumsum(0) - self._shapes.prod(1)

    def __len__(self) -> int:
        return self._size

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The patches at `indices`, float64 with shape `(n, 63)`."""
        index = index_tensor(indices, len(self), self.name)
        random = keyed_uniform(mix(self._seed), index, 3 + _SIDE**2)
        photograph = (random[:, 0] * len(self._shapes)).long()
        height, width = self._shapes[photograph].unbind(1)
        top = (random[:, 1] * (height - _SIDE + 1)).long()
        left = (random[:, 2] * (width - _SIDE + 1)).long()
        across = torch.arange(_SIDE)
        corner = self._starts[photograph] + top * width + left
        lines = corner[:, None] + width[:, None] * across
        grey = self._pixels[(lines[:, :, None] + across).flatten(1)]
        values = (grey + random[:, 3:]) / 256
        return (values - values.mean(1, keepdim=True))[:, :-1]


def open_patches(
    dataset: str,
    split: str | None = None,
    *,
    revision: str | None = None,
    size: int | None = None,
    seed: int = 0,
) -> PatchSource:
    """Open patches of the photographs of a set.

    Training and validation patches come from different photographs of its `train` split: every
    tenth is kept for validation (of BSDS300's 200: 180 and 20). Test patches come from `test`.

    Arguments:
        dataset: Hub id or local folder of a set with a column of images.
        split: `train`, `validation` or `test`.
        revision: branch, tag or commit of a Hub set.
        size: number of patches; when left out, 1,000,000, 50,000 and 250,000.
        seed: of positions and noise.

    Returns:
        The patches.

    Raises:
        DataError: for a set or split that does not exist or holds no images.
    """
    split = pick_split(f"bsds300:{dataset}", list(PATCHES), split)
    data, _ = load_split(dataset, "test" if split == "test" else "train", revision=revision)
    held_back = [i % _EVERY == _EVERY - 1 for i in range(len(data))]
    wanted = {
        "train": [i for i, held in enumerate(held_back) if not held],
        "validation": [i for i, held in enumerate(held_back) if held],
        "test": range(len(data)),
    }[split]
    if not wanted:
        raise DataError(
            f"{dataset}: {len(data)} photographs are too few for patches to {split}, "
            f"there have to be at least {_EVERY}"
        )
    return PatchSource(
        f"bsds300:{dataset} ({split})",
        _grey(data, wanted, dataset),
        PATCHES[split] if size is None else size,
        mix(seed, list(PATCHES).index(split)),
    )


def _grey(data: Dataset, wanted: Sequence[int], name: str) -> Iterator[Tensor]:
    """Photographs one at a time in grey, rounded as the published patches are."""
    import numpy

    column = image_column(data.features, name)
    for i in wanted:
        try:
            colours = numpy.asarray(data[i][column].convert("RGB"))
        except Exception as error:  # a codec's own
            raise DataError(f"{name}: cannot decode photograph {i}: {one_line(error)}") from error
        yield torch.from_numpy(numpy.rint(colours @ numpy.array(_GREY)).astype(numpy.uint8))
