"""Cells of a column of images to batches of them; cells that hold none are named or left out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from impflow_zoo.data.loading import one_line
from impflow_zoo.data.pixels import ImageFormat, as_tensor
from impflow_zoo.data.reading import Batch, LeftOutWarning
from impflow_zoo.data.source import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Decoder"]

_ADDRESS = re.compile(r" ?<[^>]* at 0x[0-9a-f]+>")  # PIL's name for bytes without a file
_REMEDY = "to leave such rows out, see --skip-corrupt of evaluate and data.corrupt of recipes"


class Decoder:
    """What turns images of a set into rows.

    An image of the wrong size or number of channels is a mistake in the model's config, not a
    damaged file: it is refused whatever is done about those.

    Arguments:
        name: what the set is, for messages.
        form: what the images are to look like.
        skip_corrupt: leave out rows without an image that can be decoded, with a warning for each;
            False refuses them.
    """

    def __init__(self, name: str, form: ImageFormat, *, skip_corrupt: bool) -> None:
        self.name, self.form, self.skip_corrupt = name, form, skip_corrupt
        self.shape = (form.channels, *form.size)
        self._warned: set[int] = set()

    def batch(self, images: Iterable[tuple[int, Callable[[], Image | None]]]) -> Batch:
        """Decode some rows.

        Arguments:
            images: the number of each row, and what loads its image.

        Raises:
            DataError: naming a row that is not of the format, or cannot be decoded and is not to
                be left out.
        """
        asked, found, rows = 0, [], []
        for number, load in images:
            asked += 1
            row = self._row(number, load)
            if row is not None:
                found.append(number)
                rows.append(row)
        index = torch.tensor(found, dtype=torch.int64)
        empty = torch.empty(0, *self.shape, dtype=torch.uint8)
        return Batch(index, torch.stack(rows) if rows else empty, asked - len(found))

    def _row(self, number: int, load: Callable[[], Image | None]) -> Tensor | None:
        cause, reason = None, f"row {number} has no image"
        try:
            image = load()
        except Exception as error:  # a codec's own
            image, cause = None, error
            said = _ADDRESS.sub("", one_line(error))
            reason = f"cannot decode the image of row {number}: {said}"
        if image is not None:
            return as_tensor(image, self.form, f"{self.name}: the image of row {number}")
        if not self.skip_corrupt:
            raise DataError(f"{self.name}: {reason}; {_REMEDY}") from cause
        if number not in self._warned:  # once, however often the row is asked for
            self._warned.add(number)
            warnings.warn(f"{self.name}: {reason}; left out", LeftOutWarning, stacklevel=2)
        return None
