"""Running out of memory, in one line that says what needs less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["NotEnoughMemoryError", "enough_memory"]

_SIGNS = ("can't allocate memory", "out of memory")  # torch has no type for it on CPUs


class NotEnoughMemoryError(MemoryError):
    """There is not enough memory; the message says what needs less."""


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Within the block, running out of memory raises a `NotEnoughMemoryError` with a remedy."""
    try:
        yield
    except NotEnoughMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in _SIGNS):
            raise NotEnoughMemoryError(f"not enough memory: {remedy}") from error
        raise
