"""Uniform random numbers that depend on a seed and a row number alone.

A generator hands out numbers in the order they are asked for; a row of a data set has to have its
own, in whatever batch and process it turns up. So the numbers are a hash of a counter.

References:
    Fast Splittable Pseudorandom Number Generators, Steele, Lea and Flood, 2014,
    https://doi.org/10.1145/2660193.2660195
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["keyed_uniform"]


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


_STEP = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def keyed_uniform(seed: int, rows: Tensor, count: int) -> Tensor:
    """Numbers of some rows: entry `j` of row `i` is output `i * count + j` of splitmix64.

    Arguments:
        seed: where the stream starts, `0 <= seed < 2**63`.
        rows: row numbers, int64 with shape `(n,)`.
        count: how many numbers a row has.

    Returns:
        Numbers in `[0, 1)`, float64 with shape `(n, count)`.
    """
    counter = rows[:, None] * count + torch.arange(1, count + 1)
    state = seed + counter * _STEP  # int64 arithmetic wraps, as splitmix64 wants it
    state = (state ^ _shift(state, 30)) * _FIRST
    state = (state ^ _shift(state, 27)) * _SECOND
    state = state ^ _shift(state, 31)
    return _shift(state, 11).double() * 2.0**-53


def _shift(state: Tensor, bits: int) -> Tensor:
    """Shift right as if unsigned: torch's shift of int64 drags the sign along."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
