"""Rademacher probes for trace estimators: fresh, seeded, or keyed by row.

Entries of a probe `v` are 1 or -1, independently of each other and equally likely: so the mean of
`v v^T` is the identity, and that of `v^T A v` is `tr(A)` (Hutchinson's estimator).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from impflow_zoo.numerics.seeds import mix

__all__ = ["Probes"]


class Probes:
    """The source of the random numbers of one call.

    With keys every row has its own probes, which depend only on the seed and the key. A mean over
    a data set then does not depend on the batches, and the errors of the rows average out.

    Arguments:
        keys: one number for each row of the batch, such as its index in the data set. With None
            seeded probes are the same for all rows, and fresh ones come from torch's global
            generator.
    """

    FRESH = 6  # tells the seeds of fresh probes from others

    def __init__(self, keys: Iterable[int] | None = None) -> None:
        self.keys = None if keys is None else tuple(keys)
        self._drawn = itertools.count()  # numbers the fresh draws of keyed rows

    def fresh(self, like: Tensor) -> Tensor:
        """Random signs with the shape of a tensor; with keys they are the same in every run."""
        if self.keys is None:
            return torch.randint_like(like, 2) * 2 - 1
        return self.seeded(like, self.FRESH, next(self._drawn))

    def lengths(self, like: Tensor, stop: float) -> Tensor:
        """Number of terms of the random series of each row, `[B]`: geometric, at least one.

        All rows of a batch share one draw, unless they have keys.
        """
        if self.keys is None:
            return torch.empty((), device="cpu").geometric_(stop).expand(len(like)).to(like.device)
        number = next(self._drawn)
        draws = [
            torch.empty((), device="cpu").geometric_(
                stop, generator=_generator(self.FRESH, number, key)
            )
            for key in self.keys
        ]
        return torch.stack(draws).to(like.device) if draws else torch.zeros(0)

    def seeded(self, like: Tensor, *seed: int) -> Tensor:
        """Signs with the shape of a tensor `[B, ...]`, the same in every call and on every device.

        Raises:
            ValueError: if there is not one key for each row.
        """
        if self.keys is None:
            return _draw(like, *seed).expand_as(like)
        if len(self.keys) != len(like):
            raise ValueError(f"the probes have {len(self.keys)} keys, the batch {len(like)} rows")
        if not self.keys:
            return torch.empty_like(like)
        return torch.stack([_draw(like, *seed, key) for key in self.keys])


def _generator(*seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(mix(*seed))


def _draw(like: Tensor, *seed: int) -> Tensor:
    bits = torch.randint(
        2, like.shape[1:], generator=_generator(*seed), dtype=torch.int8, device="cpu"
    )
    return (bits * 2 - 1).to(like)
