"""The order in which training sees its rows, the same in every run."""

from __future__ import annotations

import torch
from torch import Tensor

from impflow_zoo.data import Source, TableSource
from impflow_zoo.numerics.seeds import Use, mix

__all__ = ["Batches"]


class Batches:
    """Shuffled passes over the rows, one after the other, cut into batches of one size.

    The batch of a step depends only on the seed and the number of the step.

    Arguments:
        rows: training rows.
        size: rows per batch; a smaller source makes smaller batches.
        flip: mirror each image with probability 1/2.
        seed: seed of order, mirrors and noise.
    """

    def __init__(self, rows: Source, size: int, *, flip: bool, seed: int) -> None:
        self.rows, self.size = rows, min(size, len(rows))
        self.flip, self.seed = flip, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)
        weights = rows.weights if isinstance(rows, TableSource) else None
        self._weights = None if weights is None else weights / weights.mean()

    def __len__(self) -> int:
        """Batches of a pass."""
        return len(self.rows) // self.size

    def of(self, step: int, part: range | None = None) -> tuple[Tensor, Tensor]:
        """The raw rows of a step, and uniform noise of their shape to dequantise them with.

        Rows that the source leaves out are missing. All other rows keep their mirrors and noise,
        which depend on the position in the batch.

        Arguments:
            step: its number, from 0.
            part: positions within the batch, without gaps; None takes all.
        """
        part = range(self.size) if part is None else part
        own = slice(part.start, part.stop)
        asked = self.indices(step)[own]
        batch = self.rows.read(asked)
        raw, kept = batch.rows, torch.isin(asked, batch.index)
        generator = torch.Generator().manual_seed(mix(self.seed, Use.TRAINED_NOISE, step))
        if self.flip:
            mirrored = torch.rand(self.size, generator=generator)[own][kept] < 0.5
            raw[mirrored] = raw[mirrored].flip(-1)
        shape = (self.size, *raw.shape[1:])
        return raw, torch.rand(shape, generator=generator, dtype=torch.float64)[own][kept]

    def weights(self, step: int, part: range) -> Tensor | None:
        """The weights of the rows of a step, one in the mean over all rows; None if all are alike.

        Arguments:
            step, part: as in `of`.
        """
        if self._weights is None:
            return None
        return self._weights[self.indices(step)[part.start : part.stop]]

    def indices(self, step: int) -> Tensor:
        """Row numbers of a step."""
        n = len(self.rows)
        epoch, position = divmod(step, len(self))
        if self._epoch != epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, Use.ORDER, epoch))
            self._epoch, self._order = epoch, torch.randperm(n, generator=generator)
        return self._order[position * self.size : (position + 1) * self.size]
