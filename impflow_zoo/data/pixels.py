"""From a cell of a column of images to uint8 in the format that a model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from impflow_zoo.data.source import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageFormat", "as_tensor"]

_COLOURS = ("RGB", "RGBA", "P", "CMYK", "YCbCr")  # of PIL; transparency is dropped
_GREYS = ("L", "LA", "1")


@dataclass(frozen=True)
class ImageFormat:
    """The format of images.

    Arguments:
        channels: 3 for colours, 1 for grey.
        size: height and width.
        crop: side of the square cut from the middle first, or None.
        resize: scale to the size, by area averages; False refuses other sizes.
        grey: convert between colour and grey; False refuses images that need it.
        label: name of a column of labels, which fill an additional channel.
        classes: number of labels.
        class_names: their names in the order of their numbers; see `Labels`.
    """

    channels: int
    size: tuple[int, int]
    crop: int | None = None
    resize: bool = False
    grey: bool = False
    label: str | None = None
    classes: int = 0
    class_names: tuple[str, ...] = ()


def as_tensor(image: Image, form: ImageFormat, name: str) -> Tensor:
    """One image in the format, uint8 with shape `(C, H, W)`.

    Arguments:
        image: the decoded image.
        form: the format.
        name: name of the image, for messages.

    Raises:
        DataError: for an image of another size or another number of channels.
    """
    import numpy
    from PIL.Image import Resampling

    mode = _mode(image, form, name)
    if form.crop is not None:
        left, top = (image.width - form.crop) // 2, (image.height - form.crop) // 2
        if min(left, top) < 0:
            raise DataError(f"{name} is {image.height}x{image.width}: crop={form.crop} is larger")
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
    mode, wanted = ("RGB", "colours") if form.channels == 3 else ("L", "grey")
    taken, others = (_COLOURS, _GREYS) if mode == "RGB" else (_GREYS, _COLOURS)
    if image.mode in (*taken, *(others if form.grey else ())):
        return mode
    hint = ": convert it to 8 bits per channel first"
    if image.mode in others:
        hint = ": set prepare.grey in the model's config"
    raise DataError(f"{name} is of mode {image.mode}, the model takes {wanted}{hint}")
