"""Images through `datasets`: a column of them, decoded row by row as uint8."""

from __future__ import annotations

import copy
import itertools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

import impflow_zoo.data.limits as limits
from impflow_zoo.data.decoding import decode
from impflow_zoo.data.labels import LabelNumbers, Labels
from impflow_zoo.data.limits import check_unfolded
from impflow_zoo.data.loading import find_images
from impflow_zoo.data.names import listed
from impflow_zoo.data.parquet_files import unfolded
from impflow_zoo.data.pixels import ImageFormat, as_tensor
from impflow_zoo.data.sets import is_inside, one_line
from impflow_zoo.data.source import Batch, DataError, LeftOutWarning, Source

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

__all__ = ["ImageSource", "ImageStream", "image_column"]

_CACHE = 2**30  # bytes of decoded images kept in memory; a larger set is decoded each time
_ADDRESS = re.compile(r" ?<[^>]* at 0x[0-9a-f]+>")  # PIL's name for bytes without a file
_REMEDY = "to leave such rows out, see --skip-corrupt of evaluate and data.corrupt of recipes"


class _Images:
    """Images of one format, uint8, in cells of a column; its arguments are those of streams.

    An image of the wrong size or number of channels is a mistake in the model's config, not a
    damaged file: it is always an error.
    """

    streaming: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        data: Dataset | IterableDataset,
        form: ImageFormat,
        *,
        skip_corrupt: bool = False,
        place: str | None = None,
        parts: Sequence[str] = (),
    ) -> None:
        from datasets import Image

        self.name, self._form, self._skip_corrupt = name, form, skip_corrupt
        self._place, self._parts = place, parts
        self._shape = (form.channels + (form.label is not None), *form.size)
        column = image_column(data.features or {}, name)
        self._mode, self._column = data.features[column].mode, column
        self._label = None
        if form.label is not None:
            numbers = LabelNumbers(form.class_names, form.classes)
            self._label = Labels(form.label, data.features or {}, column, name, numbers)
        used = [column] if self._label is None else [column, self._label.column]
        if self.streaming:  # threads of `datasets` would decode files of the Hub, without limits
            data = data.decode(enable=False)
        self._stored = data.select_columns(used).cast_column(column, Image(decode=False))
        self._warned: set[int] = set()

    @classmethod
    def open(
        cls,
        dataset: str,
        split: str | None,
        form: ImageFormat,
        *,
        revision: str | None = None,
        skip_corrupt: bool = False,
    ) -> Self:
        """Open the images of a set.

        Arguments:
            dataset: Hub id, local folder, or single file.
            split: which split; a set with one split is used whole when this is left out.
            form, skip_corrupt: as for the class.
            revision: branch, tag or commit of a Hub set.

        Raises:
            DataError: for a set or split that does not exist, and as for the class.
        """
        found = find_images(
            dataset,
            split,
            revision=revision,
            streaming=cls.streaming,
            labelled=form.label is not None,
        )
        where: dict[str, Any] = {"place": found.place, "parts": found.parts}
        return cls(found.name, found.data, form, skip_corrupt=skip_corrupt, **where)

    def _row(self, number: int, example: dict[str, Any]) -> Tensor | None:
        """The image of a row, its label as one more channel; None if it is left out."""
        cell, cause, image = example[self._column], None, None
        reason = f"row {number} has no image"
        try:
            cell = self._located(cell)
        except ValueError as error:
            raise DataError(f"{self.name}: the image of row {number}: {error}") from None
        try:
            image = None if cell is None else decode(cell, self._mode)
        except Exception as error:  # a codec's own
            cause = error
            said = _ADDRESS.sub("", one_line(error))
            reason = f"cannot decode the image of row {number}: {said}"
        if image is not None:
            name = f"{self.name}: the image of row {number}"
            pixels = as_tensor(image, self._form, name)
            return pixels if self._label is None else self._label.add(pixels, example, name)
        if not self._skip_corrupt:
            raise DataError(f"{self.name}: {reason}; {_REMEDY}") from cause
        if number not in self._warned:  # once, however often the row is asked for
            self._warned.add(number)
            warnings.warn(f"{self.name}: {reason}; left out", LeftOutWarning, stacklevel=2)
        return None

    def _located(self, cell: Any) -> Any:
        """A cell whose path is that of a file of the set.

        Raises:
            ValueError: if it is elsewhere.
        """
        if cell is None or cell["bytes"] is not None or cell["path"] is None:
            return cell
        path, place = cell["path"], self._place
        elsewhere = "://" in path
        if place is not None:
            path = path if elsewhere else os.path.join(place, path)
            elsewhere = "::" in path or not is_inside(path, place)
        if elsewhere:
            raise ValueError(f"it is elsewhere, at {path}: only files of the set are read")
        return {**cell, "path": path}

    def _batch(self, rows: Sequence[tuple[int, Tensor | None]]) -> Batch:
        """Rows under their numbers, less those that are left out."""
        found = [(number, row) for number, row in rows if row is not None]
        pixels = torch.empty(len(found), *self._shape, dtype=torch.uint8)
        for i, (_, row) in enumerate(found):
            pixels[i] = row
        index = torch.tensor([number for number, _ in found], dtype=torch.int64)
        return Batch(index, pixels, len(rows) - len(found))


class ImageSource(_Images, Source):
    """Images of one format, uint8, decoded when first read and kept if all fit into memory.

    Arguments:
        name: name of the set, for messages and results.
        data: the set, with one column of images.
        form: the format of the images.
        options: `skip_corrupt` and `place`, as in `ImageStream`.

    Raises:
        DataError: for an empty set, and as for `ImageStream`.
    """

    def __init__(self, name: str, data: Dataset, form: ImageFormat, **options: Any) -> None:
        Source.__init__(self, name, len(data))
        data = data.with_format(None)  # cells as they are stored
        super().__init__(name, data, form, **options)
        self._numbers: Sequence[int] = range(len(data))  # of the rows in the whole set
        label = form.label or next((c for c, f in data.features.items() if _is_label(f)), None)
        self._labels = () if label is None else data[label]
        self._fits = len(data) * math.prod(self._shape) <= _CACHE
        self._kept: dict[int, Tensor | None] = {}

    def read(self, indices: Sequence[int] | Tensor) -> Batch:
        index = torch.as_tensor(indices, dtype=torch.int64).tolist()
        return self._batch([(i, self._kept_row(self._numbers[i])) for i in index])

    def part(self, rows: range) -> ImageSource:
        part = copy.copy(self)  # which shares what is decoded
        part._numbers, part._size = self._numbers[rows.start : rows.stop : rows.step], len(rows)
        return part

    def mixed(self) -> ImageSource:
        known = list(self._labels)
        labels = [known[i] for i in self._numbers] if known else []
        if None in labels or len(set(labels)) < 2 or labels != sorted(labels):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0)).tolist()
        part = copy.copy(self)
        part._numbers = [self._numbers[i] for i in order]
        return part

    def _kept_row(self, number: int) -> Tensor | None:
        if number in self._kept:
            return self._kept[number]
        row = self._row(number, self._stored[number])
        if self._fits:
            self._kept[number] = row
        return row


class ImageStream(_Images):
    """Images of one format, uint8, of a streamed set: one batch at a time is in memory.

    Arguments:
        name: name of the set, for messages and results.
        data: the set, a `datasets.IterableDataset` with one column of images.
        form: the format of the images.
        skip_corrupt: leave out rows whose image cannot be decoded, with a warning for each. False
            makes them an error. An image of another size or number of channels is always one.
        place: a folder or an address. Cells may name files there, and no others. None allows any
            file on this disk, for data that the caller made.
        parts: addresses of the parquet files of the set, in order. The size of each is checked
            before it is read. Empty for a set whose files are not known.

    Raises:
        DataError: if there is no column of images, or several, or not the column of labels that
            `form` names.
    """

    streaming: ClassVar[bool] = True

    def batches(
        self, size: int, limit: int | None = None, share: Callable[[int], range] = range
    ) -> Iterator[Batch]:
        """One pass from the first row.

        Arguments:
            size: rows per batch.
            limit: number of rows in all; no later row is read. None reads the whole set.
            share: ignored: a stream is read whole.

        Returns:
            The batches in order. Their rows are uint8 with shape `[n, C, H, W]`; labels, if `form`
            names a column of them, are one more channel.

        Raises:
            DataError: naming a row that cannot be fetched, is not of the format, or cannot be
                decoded and is not to be left out.
        """
        cells = self._cells(limit)
        while some := list(itertools.islice(cells, size)):
            yield self._batch([(row, self._row(row, cell)) for row, cell in some])

    def _cells(self, limit: int | None) -> Iterator[tuple[int, Any]]:
        row = 0
        try:
            # `take` asks for one row more
            for example in itertools.islice(self._examples(), limit):
                cell = _with_bytes(self._located(example[self._column]))
                yield row, {**example, self._column: cell}
                row += 1
        except Exception as error:  # of the network, the file format, or any library in between
            raise DataError(f"{self.name}: cannot fetch row {row}: {one_line(error)}") from error

    def _examples(self) -> Iterator[dict[str, Any]]:
        """The rows; parts of the set are looked at before anything in them unfolds."""
        for i, part in enumerate(self._parts):
            for packed, values in unfolded(part, known=limits.TABLE_BYTES):
                check_unfolded(packed, values, part)
            yield from self._stored.shard(len(self._parts), i)
        if not self._parts:
            yield from self._stored


def _with_bytes(cell: Any) -> Any:
    """A cell whose bytes are here: a file out of reach is no image that cannot be decoded."""
    if cell is None or cell["bytes"] is not None or "://" not in (cell["path"] or ""):
        return cell
    import fsspec

    with fsspec.open(cell["path"], "rb") as file:
        content = file.read(limits.TABLE_BYTES + 1)
    if len(content) > limits.TABLE_BYTES:
        raise ValueError(f"{cell['path']} has more than {limits.TABLE_BYTES:,} bytes")
    return {**cell, "bytes": content}


def image_column(features: Features, name: str) -> str:
    """The one column of images.

    Raises:
        DataError: if there is none, or several.
    """
    columns = [c for c, feature in features.items() if type(feature).__name__ == "Image"]
    if not columns:
        raise DataError(f"{name}: no column of images, only {listed(features) or 'nothing'}")
    if len(columns) > 1:
        raise DataError(
            f"{name}: several columns of images, {listed(columns)}: keep one "
            "(datasets' select_columns)"
        )
    return columns[0]


def _is_label(feature: Any) -> bool:
    """Whether a column holds labels, as folders of images have them."""
    from datasets import ClassLabel

    return isinstance(feature, ClassLabel)
