"""What nets are built with and called with, checked in one place."""

from __future__ import annotations

import math

from torch import Tensor

from impflow_zoo.numerics.settings import is_real, is_whole

__all__ = ["check_bound", "check_context", "check_context_size", "check_sizes"]


def check_bound(lipschitz: float) -> None:
    """Refuse what is no Lipschitz constant.

    Raises:
        ValueError: unless it is a positive number.
    """
    if not (is_real(lipschitz) and 0 < lipschitz < math.inf):
        raise ValueError(f"lipschitz={lipschitz!r}: a positive number is needed")


def check_sizes(**sizes: object) -> None:
    """Refuse sizes, or tuples of them, that are not whole and positive.

    Raises:
        ValueError: naming all of them.
    """
    for size in sizes.values():
        each = size if isinstance(size, tuple) else (size,)
        if not all(is_whole(n) and n >= 1 for n in each):
            given = ", ".join(f"{name}={value!r}" for name, value in sizes.items())
            raise ValueError(f"{given}: positive sizes are needed")


def check_context_size(context_features: int | None) -> None:
    """Refuse what is no size of a context row.

    Raises:
        ValueError: unless it is None or a whole number, 0 included.
    """
    if not (context_features is None or (is_whole(context_features) and context_features >= 0)):
        raise ValueError(f"context_features={context_features!r}: a size or None is needed")


def check_context(context: Tensor | None, rows: int, size: int | None) -> None:
    """Refuse a context that a net of `size` context features cannot take.

    Raises:
        ValueError: if it is missing, or has another shape or no floating type.
    """
    if not size:
        return
    if context is None:
        raise ValueError(f"this net needs a context of shape [B, {size}]")
    if context.shape != (rows, size):
        raise ValueError(
            f"context of shape {tuple(context.shape)}: for {rows} rows this net takes "
            f"[{rows}, {size}]"
        )
    if not context.is_floating_point():
        raise ValueError(f"context of type {context.dtype}: floating point is needed")
