"""Rademacher probes for trace estimators: fresh, seeded, or keyed by row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from impflow_zoo.numerics.seeds import mix

__all__ = ["fresh_lengths", "fresh_probe", "keyed_rows", "seeded_probe"]

_FRESH = 6  # tells the seeds of fresh probes from others
_rows: ContextVar[tuple[int, ...] | None] = ContextVar("impflow_zoo_rows", default=None)
_fresh: ContextVar[Iterator[int]] = ContextVar("impflow_zoo_fresh")  # numbers fresh probes


@contextmanager
def keyed_rows(indices: list[int] | range) -> Iterator[None]:
    """Key seeded probes by the index of each row in its data set.

    Within the block every row of a batch has probes of its own, which depend on the seed and its
    index alone: a mean over a data set then does not depend on how it was cut into batches, and
    the errors of the rows average out.
    """
    token, numbers = _rows.set(tuple(indices)), _fresh.set(itertools.count())
    try:
        yield
    finally:
        _rows.reset(token)
        _fresh.reset(numbers)


def fresh_probe(like: Tensor) -> Tensor:
    """Signs with the shape of a tensor, from torch's global generator of its device.

    Within `keyed_rows` they are as fresh from call to call, but the same in every run.
    """
    if _rows.get() is None:
        return torch.randint_like(like, 2) * 2 - 1
    drawn = _fresh.get()
    return seeded_probe(like, _FRESH, next(drawn))


def fresh_lengths(like: Tensor, stop: float) -> Tensor:
    """How many terms a random series of each row has, `[B]`: geometric, at least one.

    All rows of a batch share one draw, unless `keyed_rows` gives each its own.
    """
    keys = _rows.get()
    if keys is None:
        return torch.empty(()).geometric_(stop).expand(len(like)).to(like.device)
    number = next(_fresh.get())
    draws = [
        torch.empty(()).geometric_(
            stop, generator=torch.Generator().manual_seed(mix(_FRESH, number, key))
        )
        for key in keys
    ]
    return torch.stack(draws).to(like.device) if draws else torch.zeros(0)


def seeded_probe(like: Tensor, *seed: int) -> Tensor:
    """Signs with the shape of a tensor `[B, ...]`, the same in every call and on every device.

    All rows share one probe, unless `keyed_rows` gives each its own.
    """
    keys = _rows.get()
    if keys is None:
        return _draw(like, mix(*seed)).expand_as(like)
    if len(keys) != len(like):
        raise ValueError(f"keyed_rows names {len(keys)} rows, the batch has {len(like)}")
    if not keys:
        return torch.empty_like(like)
    return torch.stack([_draw(like, mix(*seed, key)) for key in keys])


def _draw(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(
        2, like.shape[1:], generator=generator, dtype=torch.int8, device=generator.device
    )
    return (bits * 2 - 1).to(like)
