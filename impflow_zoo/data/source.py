"""Rows that can be asked for by index: what training and evaluation know of data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["DataError", "Source", "TableSource", "UnknownSplitError", "index_tensor"]


class DataError(ValueError):
    """A mistake about data, in one line that names the thing and the remedy."""


class UnknownSplitError(DataError):
    """A data set has no such split, or several of which none was named."""


@runtime_checkable
class Source(Protocol):
    """A set of rows of one shape, read by index.

    The same index gives the same row each time, so rows can be shuffled, batched and shared among
    processes by their indices alone. Rows are raw: a table's are float64 `[n, D]` in the data's own
    units, images are uint8 `[n, C, H, W]`. Dequantisation and standardisation belong to the model.
    """

    name: str

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The rows at `indices`, in their order; repeats are allowed."""
        ...


def index_tensor(indices: Sequence[int] | Tensor, size: int, name: str) -> Tensor:
    """Row numbers as a tensor, checked against the size of the set.

    Arguments:
        indices: row numbers, `0 <= i < size`.
        size: number of rows of the set.
        name: name of the set, for the message.

    Returns:
        The row numbers, int64 with shape `(n,)`.

    Raises:
        DataError: for an index out of range, or one that is no integer.
    """
    if isinstance(indices, range):  # as_tensor would walk it number by number
        index = torch.arange(indices.start, indices.stop, indices.step)
    else:
        index = torch.as_tensor(indices).cpu()
    if index.numel() == 0:
        return torch.zeros(0, dtype=torch.int64)
    if index.dim() != 1 or index.dtype.is_floating_point or index.dtype == torch.bool:
        raise DataError(
            f"{name}: row numbers have to be a flat list of integers, "
            f"not {index.dtype} of shape {tuple(index.shape)}"
        )
    outside = (index < 0) | (index >= size)
    if bool(outside.any()):
        raise DataError(
            f"{name}: row {int(index[outside][0])} is out of range, rows are 0 to {size - 1}"
        )
    return index.long()


class TableSource:
    """A table held in memory.

    Arguments:
        name: what it is, for messages and results.
        values: the rows, float64 with shape `(N, D)`.
        columns: the names of the `D` columns.
        named: whether these are names that somebody gave, by which other files are read too.

    Raises:
        DataError: for an empty table, or a value that is NaN or infinite.

    Example:
        >>> source = TableSource("small", torch.eye(2, dtype=torch.float64), ("a", "b"))
        >>> len(source), source.rows([1]).tolist()
        (2, [[0.0, 1.0]])
    """

    def __init__(
        self, name: str, values: Tensor, columns: Sequence[str], *, named: bool = False
    ) -> None:
        if values.shape[0] == 0:
            raise DataError(f"{name}: the set is empty, it has no rows")
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise DataError(
                f"{name}: row {row}, column {columns[column]!r} is {float(values[row, column])} "
                f"({len(bad)} values in all are missing or not finite): drop or fill these rows"
            )
        self.name = name
        self.columns, self.named = tuple(columns), named
        self._values = values

    def __len__(self) -> int:
        return self._values.shape[0]

    def __repr__(self) -> str:
        return f"TableSource({self.name!r}, {len(self)} rows, columns {', '.join(self.columns)})"

    def chosen(self, columns: Sequence[str]) -> TableSource:
        """Some of its columns, in an order."""
        values = self._values[:, [self.columns.index(column) for column in columns]]
        return TableSource(self.name, values, columns, named=self.named)

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The rows at `indices`, float64 with shape `(n, D)`; a copy the caller may change."""
        return self._values[index_tensor(indices, len(self), self.name)]
