"""Images that are read in order while they come in: sets that are larger than the disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from impflow_zoo.data.decoding import Decoder
from impflow_zoo.data.loading import one_line
from impflow_zoo.data.pixels import ImageFormat
from impflow_zoo.data.reading import Batch
from impflow_zoo.data.source import DataError

if TYPE_CHECKING:
    from datasets import IterableDataset
    from PIL.Image import Image

__all__ = ["ImageStream"]


class ImageStream:
    """Images of one format, uint8, of a set that is not kept: a batch at a time is in memory.

    Arguments:
        name: what it is, for messages and results.
        data: the set, with its column of images.
        column: that column.
        form: what the images are to look like.
        skip_corrupt: leave out rows without an image that can be decoded, see `Decoder`.
    """

    def __init__(
        self,
        name: str,
        data: IterableDataset,
        column: str,
        form: ImageFormat,
        *,
        skip_corrupt: bool = False,
    ) -> None:
        self.name = name
        self._feature, self._column = data.features[column], column
        from datasets import Image

        # A decoder that fails inside of the set would end it.
        self._data = data.select_columns([column]).cast_column(column, Image(decode=False))
        self._decoder = Decoder(name, form, skip_corrupt=skip_corrupt)

    def batches(self, size: int, limit: int | None) -> Iterator[Batch]:
        """One pass from the first row.

        Arguments:
            size: rows at a time.
            limit: how many in all; no row beyond is asked for. None takes the whole set.

        Raises:
            DataError: naming a row that cannot be fetched, is not of the format, or cannot be
                decoded and is not to be left out.
        """
        numbered = self._fetched(limit)
        while some := list(itertools.islice(numbered, size)):
            yield self._decoder.batch(some)

    def _fetched(self, limit: int | None) -> Iterator[tuple[int, Callable[[], Image | None]]]:
        row = 0
        try:
            for example in itertools.islice(self._data, limit):  # `take` asks for one row more
                yield row, self._loader(_with_bytes(example[self._column]))
                row += 1
        except DataError:
            raise
        except Exception as error:  # of the network, the file format, or any library in between
            raise DataError(f"{self.name}: cannot fetch row {row}: {one_line(error)}") from error

    def _loader(self, cell: Any) -> Callable[[], Image | None]:
        return lambda: None if cell is None else self._feature.decode_example(cell)


def _with_bytes(cell: Any) -> Any:
    """A cell whose bytes are here: a file out of reach is no image that cannot be decoded."""
    if cell is None or cell["bytes"] is not None or "://" not in (cell["path"] or ""):
        return cell
    import fsspec

    with fsspec.open(cell["path"], "rb") as file:
        return {**cell, "bytes": file.read()}
