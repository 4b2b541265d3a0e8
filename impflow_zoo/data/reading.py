"""Rows of a set in order, and what becomes of those that cannot be read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from impflow_zoo.data.source import Source, index_tensor

__all__ = ["Batch", "LeftOutWarning", "Stream", "batches", "fingerprint", "read"]

_LOOKED_AT = 16  # rows at each end of a set that its fingerprint is made of


class LeftOutWarning(UserWarning):
    """A row of a set cannot be read and is left out, as asked."""


@dataclass(frozen=True)
class Batch:
    """Some rows of a set, under the numbers they have there.

    Arguments:
        index: row numbers, int64 with shape `(n,)`.
        rows: the rows, raw, with shape `(n, ...)`.
        left_out: how many more were asked for and cannot be read.
    """

    index: Tensor
    rows: Tensor
    left_out: int = 0


@runtime_checkable
class Lenient(Protocol):
    """A source that may leave rows out."""

    def read(self, indices: Sequence[int] | Tensor) -> Batch:
        """Those of the rows at `indices` that can be read, in their order."""
        ...


@runtime_checkable
class Stream(Protocol):
    """Rows that come in order alone, as many as there are."""

    name: str

    def batches(self, size: int, limit: int | None) -> Iterator[Batch]:
        """One pass from the first row, `size` rows at a time."""
        ...


def read(source: Source, indices: Sequence[int] | Tensor) -> Batch:
    """Rows of a source, less those it leaves out.

    Raises:
        DataError: for an index out of range, or a row that cannot be read and is not left out.
    """
    if isinstance(source, Lenient):
        return source.read(indices)
    return Batch(index_tensor(indices, len(source), source.name), source.rows(indices))


def batches(
    source: Source | Stream,
    size: int,
    limit: int | None = None,
    share: Callable[[int], range] = range,
) -> Iterator[Batch]:
    """One pass over the first rows of a set.

    Rows that are left out count as rows: they make their batch smaller, and the numbers of all
    others are what they would be.

    Arguments:
        source: where the rows are.
        size: rows at a time.
        limit: how many in all; None takes the whole set.
        share: which of so many rows to take; a stream is read whole.
    """
    if isinstance(source, Stream):
        yield from source.batches(size, limit)
        return
    n = len(source) if limit is None else min(limit, len(source))
    rows = share(n)
    for i in range(0, len(rows), size):
        yield read(source, rows[i : i + size])


def fingerprint(source: Source) -> str:
    """A short text that tells sets of rows apart: by their number, and the first and last of them.

    Tables are looked at in float32, in which the same file is the same on every machine.
    """
    n = len(source)
    ends = sorted({*range(min(n, _LOOKED_AT)), *range(max(0, n - _LOOKED_AT), n)})
    rows = read(source, ends).rows
    rows = rows.float() if rows.is_floating_point() else rows
    shape = f"{n} {tuple(rows.shape[1:])} ".encode()
    return hashlib.sha256(shape + rows.contiguous().numpy().tobytes()).hexdigest()[:16]
