"""Seeds derived from several numbers, and the uses of a user's seed."""

from __future__ import annotations

from enum import IntEnum, unique

__all__ = ["Use", "mix"]


def mix(*parts: int) -> int:
    """One seed below `2**63` from several integers (the finaliser of splitmix64)."""
    state = 0
    for part in map(int, parts):  # numpy's numbers would overflow
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1


@unique
class Use(IntEnum):
    """Mixed with the seed, so that different uses draw different numbers."""

    SCORED_NOISE = 1  # dequantises a row that is scored
    ORDER = 2  # of the rows in an epoch
    TRAINED_NOISE = 3  # mirrors and dequantises the rows of a step
    SCORED_PROBES = 4  # of a row that is scored
    BATCH_NOISE = 5  # dequantises images that a user holds
    STEP = 6  # whatever else a training step draws
    PREDICTED = 7  # samples that predict rows
    STANDARDISED = 8  # rows that the scale of columns is learned from
    COMPARED = 9  # rows that a Gaussian is fitted to, and their noise
