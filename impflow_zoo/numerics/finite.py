"""Which rows, or which weights, hold NaN or infinity: looked for where a call fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from impflow_zoo.numerics.rows import listed

__all__ = ["NotFiniteError", "blaming_weights", "check_finite", "refuse_rows"]


class NotFiniteError(ValueError):
    """A tensor holds NaN or infinity."""


def check_finite(x: Tensor, name: str, why: str = "") -> None:
    """Refuse NaN and infinity, naming the rows, and why they may be there.

    Raises:
        NotFiniteError: if there are any.
    """
    refuse_rows(~torch.isfinite(x[:, None].flatten(1)).all(dim=1), f"{name} with", why)


def refuse_rows(rows: Tensor, what: str, why: str = "") -> None:
    """Refuse some rows, given by a mask, `[B]`, for their NaN or infinity.

    Raises:
        NotFiniteError: if there are any.
    """
    if found := rows.nonzero()[:, 0].tolist():
        text = f"{what} NaN or infinity in {len(found)} of {len(rows)} rows: {listed(found)}"
        raise NotFiniteError(f"{text}: {why}" if why else text)


@contextmanager
def blaming_weights(module: nn.Module) -> Iterator[None]:
    """If the block of code fails and a weight of the module is not finite, name the weight instead.

    Raises:
        NotFiniteError: naming the weight.
    """
    try:
        yield
    except Exception:  # NaN leads to errors of any kind
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if not tensor.is_meta and not bool(tensor.detach().isfinite().all()):
                raise NotFiniteError(
                    f"the weight {name} holds NaN or infinity: load finite weights, or train with "
                    "a smaller learning rate"
                ) from None
        raise
