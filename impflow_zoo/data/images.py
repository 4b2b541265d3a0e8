"""Images through `datasets`: the column of images, decoded row by row as uint8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from impflow_zoo.data.decoding import Decoder
from impflow_zoo.data.loading import load_split
from impflow_zoo.data.pixels import ImageFormat
from impflow_zoo.data.reading import Batch
from impflow_zoo.data.source import DataError, index_tensor
from impflow_zoo.data.streams import ImageStream

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from PIL.Image import Image

__all__ = ["ImageSource", "image_column", "open_images", "stream_images"]

_CACHE = 2**30  # bytes of decoded images kept in memory; a larger set is decoded each time


class ImageSource:
    """Images of one format, uint8, each decoded when first asked for and kept if all would fit.

    Arguments:
        name: what it is, for messages and results.
        data: the set, with its column of images.
        column: that column.
        form: what the images are to look like.
        skip_corrupt: let `read` leave out rows without an image that can be decoded, see `Decoder`.

    Raises:
        DataError: for an empty set.
    """

    def __init__(
        self,
        name: str,
        data: Dataset,
        column: str,
        form: ImageFormat,
        *,
        skip_corrupt: bool = False,
    ) -> None:
        if not len(data):
            raise DataError(f"{name}: the set is empty, it has no rows")
        self.name = name
        self._data, self._column = data.select_columns([column]), column
        self._decoder = Decoder(name, form, skip_corrupt=skip_corrupt)
        self._kept: Tensor | None = None
        if len(data) * math.prod(self._decoder.shape) <= _CACHE:
            self._kept = torch.empty(len(data), *self._decoder.shape, dtype=torch.uint8)
            self._known = torch.zeros(len(data), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._data)

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The images at `indices`, uint8 with shape `(n, C, H, W)`; a copy.

        Raises:
            DataError: naming a row that cannot be decoded or is not of the format.
        """
        batch = self.read(indices)
        if batch.left_out:
            raise DataError(f"{self.name}: {batch.left_out} of these rows have no readable image")
        return batch.rows

    def read(self, indices: Sequence[int] | Tensor) -> Batch:
        """The images at `indices` in their order, less those that are left out; a copy.

        Raises:
            DataError: naming a row that is not of the format, or cannot be decoded and is not to
                be left out.
        """
        index = index_tensor(indices, len(self), self.name)
        if self._kept is None:
            return self._decoded(index)
        missing = index[~self._known[index]].unique()
        if len(missing):
            batch = self._decoded(missing)
            self._kept[batch.index] = batch.rows
            self._known[batch.index] = True
        found = index[self._known[index]]
        return Batch(found, self._kept[found], len(index) - len(found))

    def _decoded(self, index: Tensor) -> Batch:
        return self._decoder.batch((row, partial(self._image, row)) for row in index.tolist())

    def _image(self, row: int) -> Image | None:
        return self._data[row][self._column]


def open_images(
    dataset: str,
    split: str | None,
    form: ImageFormat,
    *,
    revision: str | None = None,
    skip_corrupt: bool = False,
) -> ImageSource:
    """Open the images of a set.

    Arguments:
        dataset: Hub id, local folder, or single file.
        split: which split; a set with one split is used whole when this is left out.
        form: what the images are to look like.
        revision: branch, tag or commit of a Hub set.
        skip_corrupt: leave out rows without an image that can be decoded, with a warning for each.

    Raises:
        DataError: for a set or split that does not exist or has no column of images, or several.
    """
    data, name = load_split(dataset, split, revision=revision)
    column = image_column(data.features, name)
    return ImageSource(name, data, column, form, skip_corrupt=skip_corrupt)


def stream_images(
    dataset: str,
    split: str | None,
    form: ImageFormat,
    *,
    revision: str | None = None,
    skip_corrupt: bool = False,
) -> ImageStream:
    """Open the images of a set in order, without keeping or downloading it whole.

    Arguments and errors are those of `open_images`.
    """
    data, name = load_split(dataset, split, revision=revision, streaming=True)
    column = image_column(data.features, name)
    return ImageStream(name, data, column, form, skip_corrupt=skip_corrupt)


def image_column(features: Features, name: str) -> str:
    """The one column of images.

    Raises:
        DataError: if there is none, or several.
    """
    columns = [c for c, feature in features.items() if type(feature).__name__ == "Image"]
    if not columns:
        raise DataError(f"{name}: no column of images, there is {', '.join(features)}")
    if len(columns) > 1:
        raise DataError(
            f"{name}: several columns of images, {', '.join(columns)}: keep one "
            "(datasets' select_columns)"
        )
    return columns[0]
