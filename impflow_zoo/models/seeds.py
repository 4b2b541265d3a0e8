"""What a seed of the user's is used for, so that no two uses draw the same numbers."""

from __future__ import annotations

from enum import IntEnum, unique

__all__ = ["Use"]


@unique
class Use(IntEnum):
    """To be mixed with the seed."""

    SCORED_NOISE = 1  # dequantises a row that is scored
    ORDER = 2  # of the rows in an epoch
    TRAINED_NOISE = 3  # mirrors and dequantises the rows of a step
    SCORED_PROBES = 4  # of a row that is scored
    BATCH_NOISE = 5  # dequantises images that a user holds
    STEP = 6  # whatever else a training step draws
