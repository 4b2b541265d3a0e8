"""Images through `datasets`: the column of images, decoded row by row as uint8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from impflow_zoo.data.loading import load_split, one_line
from impflow_zoo.data.source import DataError, index_tensor

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

__all__ = ["ImageFormat", "ImageSource", "open_images"]

_CACHE = 2**30  # bytes of decoded images kept in memory; a larger set is decoded each time
_COLOURS = ("RGB", "RGBA", "P", "CMYK", "YCbCr")  # modes of PIL that turn into RGB as they look
_GREYS = ("L", "LA", "1")


@dataclass(frozen=True)
class ImageFormat:
    """What images are to look like.

    Arguments:
        channels: 3 for colours, 1 for grey.
        size: height and width.
        crop: side of the square cut from the middle first, or None.
        resize: scale to the size, area averaged; False refuses other sizes.
        grey: turn colours into grey; False refuses images of another number of channels.
    """

    channels: int
    size: tuple[int, int]
    crop: int | None = None
    resize: bool = False
    grey: bool = False


class ImageSource:
    """Images of one format, uint8, each decoded when first asked for and kept if all would fit.

    Arguments:
        name: what it is, for messages and results.
        data: the set, with its column of images.
        column: that column.
        form: what the images are to look like.

    Raises:
        DataError: for an empty set.
    """

    def __init__(self, name: str, data: Dataset, column: str, form: ImageFormat) -> None:
        if not len(data):
            raise DataError(f"{name}: the set is empty, it has no rows")
        self.name, self.form = name, form
        self._data, self._column = data.select_columns([column]), column
        shape = (form.channels, *form.size)
        self._kept: Tensor | None = None
        if len(data) * torch.Size(shape).numel() <= _CACHE:
            self._kept = torch.empty(len(data), *shape, dtype=torch.uint8)
            self._known = torch.zeros(len(data), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._data)

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The images at `indices`, uint8 with shape `(n, C, H, W)`; a copy.

        Raises:
            DataError: naming a row that cannot be decoded or is not of the format.
        """
        index = index_tensor(indices, len(self), self.name)
        if self._kept is None:
            return self._decoded(index)
        missing = index[~self._known[index]].unique()
        if len(missing):
            self._kept[missing] = self._decoded(missing)
            self._known[missing] = True
        return self._kept[index]

    def _decoded(self, index: Tensor) -> Tensor:
        images = torch.empty(len(index), self.form.channels, *self.form.size, dtype=torch.uint8)
        for i, row in enumerate(index.tolist()):
            try:
                image = self._data[row][self._column]
            except Exception as error:  # a codec's own
                raise DataError(
                    f"{self.name}: cannot decode the image of row {row}: {one_line(error)}"
                ) from error
            if image is None:
                raise DataError(f"{self.name}: row {row} has no image")
            images[i] = _as_tensor(image, self.form, f"{self.name}: the image of row {row}")
        return images


def open_images(
    dataset: str, split: str | None, form: ImageFormat, *, revision: str | None = None
) -> ImageSource:
    """Open the images of a set.

    Arguments:
        dataset: Hub id, local folder, or single file.
        split: which split; a set with one split is used whole when this is left out.
        form: what the images are to look like.
        revision: branch, tag or commit of a Hub set.

    Raises:
        DataError: for a set or split that does not exist or has no column of images, or several.
    """
    data, name = load_split(dataset, split, revision=revision)
    columns = [c for c, feature in data.features.items() if type(feature).__name__ == "Image"]
    if not columns:
        raise DataError(f"{name}: no column of images, there is {', '.join(data.column_names)}")
    if len(columns) > 1:
        raise DataError(
            f"{name}: several columns of images, {', '.join(columns)}: keep one "
            "(datasets' select_columns)"
        )
    return ImageSource(name, data, columns[0], form)


def _as_tensor(image: Image, form: ImageFormat, name: str) -> Tensor:
    """One image in the format, uint8 with shape `(C, H, W)`."""
    import numpy
    from PIL.Image import Resampling

    mode = _mode(image, form, name)
    if form.crop is not None:
        left, top = (image.width - form.crop) // 2, (image.height - form.crop) // 2
        if min(left, top) < 0:
            raise DataError(f"{name} is {image.height}x{image.width}: too small for {form.crop}")
        image = image.crop((left, top, left + form.crop, top + form.crop))
    image = image.convert(mode)
    height, width = form.size
    if (image.height, image.width) != form.size:
        if not form.resize:
            raise DataError(
                f"{name} is {image.height}x{image.width}, the model takes {height}x{width}: "
                "set prepare.resize or prepare.crop in the model's config"
            )
        image = image.resize((width, height), Resampling.BOX)
    pixels = torch.from_numpy(numpy.array(image))
    return pixels[None] if mode == "L" else pixels.permute(2, 0, 1)


def _mode(image: Image, form: ImageFormat, name: str) -> str:
    """The mode of PIL to convert to."""
    if form.channels == 3 and image.mode in _COLOURS:
        return "RGB"
    if form.channels == 1 and image.mode in (*_GREYS, *(_COLOURS if form.grey else ())):
        return "L"
    wanted = "colours" if form.channels == 3 else "grey"
    hint = ": set prepare.grey in the model's config" if image.mode in _COLOURS else ""
    raise DataError(f"{name} is of mode {image.mode}, the model takes {wanted}{hint}")
