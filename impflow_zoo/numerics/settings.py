"""Which values are numbers in settings: numpy's numbers are, `True` is not."""

from __future__ import annotations

import numbers
from typing import TypeGuard

__all__ = ["is_real", "is_whole"]


def is_real(value: object) -> TypeGuard[float]:
    """Whether it is a real number."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
