"""Rows of a data set: the interface of data for training and evaluation."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from impflow_zoo.data.names import listed

__all__ = [
    "Batch",
    "DataError",
    "LeftOutWarning",
    "Source",
    "TableSource",
    "UnknownSplitError",
    "checksum",
    "fingerprint",
]

_LOOKED_AT = 16  # rows at each end of a set that its fingerprint is made of
_SAMPLED = 256  # images of a set that its checksum is made of
_AT_ONCE = 100_000  # rows of a table


class DataError(ValueError):
    """An error in data, in one line that names the cause and the remedy.

    Names and values of strangers may hold line breaks and codes for terminals: they are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class UnknownSplitError(DataError):
    """A data set has no such split, or has several and none was named."""


class LeftOutWarning(UserWarning):
    """Rows that cannot be read, columns without numbers, or files of a folder are left out."""


@dataclass(frozen=True)
class Batch:
    """Some rows of a set with their row numbers.

    Arguments:
        index: row numbers, int64 with shape `(n,)`.
        rows: the rows, raw, with shape `(n, ...)`.
        left_out: number of further rows that cannot be read.
    """

    index: Tensor
    rows: Tensor
    left_out: int = 0


class Source(ABC):
    """A set of rows of one shape, read by index.

    The same index gives the same row each time, so rows can be shuffled, batched and shared among
    processes by their indices alone. Rows are raw: a table's are float64 `[n, D]` in the data's own
    units, images are uint8 `[n, C, H, W]`. Dequantisation and standardisation belong to the model.

    Arguments:
        name: name of the set, for messages and results.
        size: number of rows.

    Raises:
        DataError: for an empty set.
    """

    def __init__(self, name: str, size: int) -> None:
        if size == 0:
            raise DataError(f"{name}: the set is empty, it has no rows")
        self.name, self._size = name, size

    def __len__(self) -> int:
        return self._size

    @abstractmethod
    def read(self, indices: Sequence[int] | Tensor) -> Batch:
        """Read the rows at `indices`, in this order, without unreadable ones.

        Arguments:
            indices: numbers of rows, from 0; repeats are allowed.

        Returns:
            A `Batch` with the rows that can be read.

        Raises:
            DataError: for a row that cannot be read and is not to be left out.
        """

    @abstractmethod
    def part(self, rows: range) -> Source:
        """Some of the rows as a set of its own, numbered from 0."""

    def mixed(self) -> Source:
        """The rows in a random order, always the same, if they are images sorted by their labels.

        So come images from a folder for each label.
        """
        return self

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The rows at `indices`, a copy; none of them may be left out.

        Arguments:
            indices: numbers of `n` rows, from 0; repeats are allowed.

        Returns:
            The rows in this order, float64 `[n, D]` of a table and uint8 `[n, C, H, W]` of images.

        Raises:
            DataError: if one of them cannot be read.
        """
        batch = self.read(indices)
        if batch.left_out:
            raise DataError(f"{self.name}: {batch.left_out} of these rows cannot be read")
        return batch.rows

    def batches(
        self, size: int, limit: int | None = None, share: Callable[[int], range] = range
    ) -> Iterator[Batch]:
        """One pass over the rows, the first `limit` of them if given.

        Rows that are left out make their batch smaller; all other rows keep their numbers.

        Arguments:
            size: rows per batch.
            limit: number of rows in all; None takes the whole set.
            share: which of these rows to take.
        """
        rows = share(len(self) if limit is None else min(limit, len(self)))
        for i in range(0, len(rows), size):
            yield self.read(rows[i : i + size])


class TableSource(Source):
    """A table held in memory.

    Arguments:
        name: name of the table, for messages and results.
        values: the rows, float64 with shape `(N, D)`.
        columns: the names of the `D` columns.
        named: whether the names come from the data; other files are then read by these names.
        groups: the group of each row, int64 with shape `(N,)`; None if all rows are independent.
        weights: the weight of each row, float64 with shape `(N,)`, positive; None if all rows count
            alike.

    Raises:
        DataError: for an empty table, a column named twice, a value that is NaN or infinite, or
            another number of groups or weights than of rows.

    Example:
        >>> source = TableSource("small", torch.eye(2, dtype=torch.float64), ("a", "b"))
        >>> len(source), source.rows([1]).tolist()
        (2, [[0.0, 1.0]])
    """

    def __init__(
        self,
        name: str,
        values: Tensor,
        columns: Sequence[str],
        *,
        named: bool = False,
        groups: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(name, len(values))
        for what, found in (("groups", groups), ("weights", weights)):
            if found is not None and found.shape != (len(values),):
                raise DataError(f"{name}: {what} of {len(found)} rows, the table has {len(values)}")
        if len({*columns}) < len(columns):
            raise DataError(f"{name}: a column is named twice among {listed(columns)}")
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise DataError(
                f"{name}: row {row}, column {columns[column]!r} is {float(values[row, column])} "
                f"(missing or not finite: {len(bad):,} of {values.numel():,} values): "
                "drop or fill these rows"
            )
        self.columns, self.named = tuple(columns), named
        self.groups, self.weights = groups, weights
        self._values = values

    def read(self, indices: Sequence[int] | Tensor) -> Batch:
        index = torch.as_tensor(indices, dtype=torch.int64)
        return Batch(index, self._values[index])

    def part(self, rows: range) -> TableSource:
        index = torch.as_tensor(rows)
        return TableSource(
            self.name,
            self.rows(rows),
            self.columns,
            named=self.named,
            groups=None if self.groups is None else self.groups[index],
            weights=None if self.weights is None else self.weights[index],
        )

    def chosen(self, columns: Sequence[str]) -> TableSource:
        """Some of its columns, in an order."""
        values = self._values[:, [self.columns.index(column) for column in columns]]
        return TableSource(
            self.name,
            values,
            columns,
            named=self.named,
            groups=self.groups,
            weights=self.weights,
        )


def fingerprint(source: Source) -> str:
    """A short text that tells sets of rows apart: by their number, and the first and last of them.

    Tables are looked at in float32, in which the same file is the same on every machine.

    Arguments:
        source: the rows.

    Returns:
        16 hexadecimal digits.
    """
    n = len(source)
    return _digest(
        source, [sorted({*range(min(n, _LOOKED_AT)), *range(max(0, n - _LOOKED_AT), n)})]
    )


def checksum(source: Source) -> str:
    """A short text that changes with any row of a table, as float32, and with the order of rows.

    Images take long to decode: of them it sees their number and 256, at equal distances from the
    first to the last. It does not see a change of others.

    Arguments:
        source: the rows.

    Returns:
        16 hexadecimal digits.
    """
    n = len(source)
    if isinstance(source, TableSource):
        return _digest(source, (range(i, min(i + _AT_ONCE, n)) for i in range(0, n, _AT_ONCE)))
    count = min(n, _SAMPLED)
    return _digest(source, [[i * (n - 1) // max(1, count - 1) for i in range(count)]])


def _digest(source: Source, parts: Iterable[Sequence[int]]) -> str:
    """The number of rows, and the rows of some numbers with their weights, as a short text."""
    found = hashlib.sha256()
    weights = source.weights if isinstance(source, TableSource) else None
    for number, part in enumerate(parts):
        rows = source.read(part).rows
        rows = rows.float() if rows.is_floating_point() else rows
        if number == 0:
            found.update(f"{len(source)} {tuple(rows.shape[1:])} ".encode())
        found.update(rows.contiguous().numpy().tobytes())
        if weights is not None:
            found.update(weights[torch.as_tensor(part)].float().numpy().tobytes())
    return found.hexdigest()[:16]
