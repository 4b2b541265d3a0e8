"""Seeds: one made of several numbers, and a number for each use so that no two draw the same."""

from __future__ import annotations

from enum import IntEnum, unique

__all__ = ["Use", "mix"]


@unique
class Use(IntEnum):
    """What random numbers of one user's seed are for."""

    SCORED_NOISE = 1  # dequantises a row that is scored
    ORDER = 2  # of the rows in an epoch
    TRAINED_NOISE = 3  # mirrors and dequantises the rows of a step
    SCORED_PROBES = 4  # of a row that is scored
    BATCH_NOISE = 5  # dequantises images that a user holds
    STEP = 6  # whatever else a training step draws
    FRESH_PROBES = 7  # that differ from call to call, and not from run to run


def mix(*parts: int) -> int:
    """One seed below `2**63` from several integers (the finaliser of splitmix64)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1
