"""Some rows of a source, as a source of its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from impflow_zoo.data.reading import Batch, read
from impflow_zoo.data.source import Source, index_tensor

__all__ = ["Subset"]


class Subset:
    """Some rows of a source, under their own numbers.

    Arguments:
        source: the rows.
        chosen: which of them, in order.
    """

    def __init__(self, source: Source, chosen: range) -> None:
        self.source, self.chosen, self.name = source, chosen, source.name

    def __len__(self) -> int:
        return len(self.chosen)

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        return self.source.rows(self._below(indices))

    def read(self, indices: Sequence[int] | Tensor) -> Batch:
        """The rows at `indices` in their order, less those that the source leaves out."""
        batch = read(self.source, self._below(indices))
        index = (batch.index - self.chosen.start) // self.chosen.step
        return Batch(index, batch.rows, batch.left_out)

    def _below(self, indices: Sequence[int] | Tensor) -> Tensor:
        index = index_tensor(indices, len(self), self.name)
        return index * self.chosen.step + self.chosen.start
