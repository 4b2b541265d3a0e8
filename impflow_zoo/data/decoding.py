"""From the cell of a file to an image. Only formats of pixels are read, up to Pillow's limit."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGE_FORMATS", "decode"]

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # of Pillow, which has 40 more


def decode(cell: dict[str, Any], mode: str | None = None) -> Image:
    """Decode an image, and turn it as its camera says.

    Arguments:
        cell: `bytes` of the image, or the `path` of a file.
        mode: mode of Pillow that the data set asks for.

    Raises:
        ValueError, OSError, and others: if there is no image, it is in another format, damaged, or
            has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    from PIL import ExifTags, Image, ImageOps

    file = cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])
    if isinstance(file, str) and not Path(file).is_file():
        raise ValueError(f"there is no file {file}")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image: Image.Image = Image.open(file, formats=IMAGE_FORMATS)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise ValueError(
                f"more than {Image.MAX_IMAGE_PIXELS:,} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
            ) from None
    image.load()  # and close the file
    if image.getexif().get(ExifTags.Base.Orientation) is not None:
        image = ImageOps.exif_transpose(image)
    return image if mode in (None, image.mode) else image.convert(mode)
