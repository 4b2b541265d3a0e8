"""Arithmetic in the type of its numbers, within autocast too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

__all__ = ["without_autocast"]


@contextmanager
def without_autocast(*modules: nn.Module) -> Iterator[None]:
    """No rounding by autocast, neither on the CPU nor where the parameters are.

    It rounds float64 as well, which proofs and recorded answers are computed in.
    """
    places = {"cpu", *(p.device.type for module in modules for p in module.parameters())}
    with ExitStack() as stack:
        for place in places - {"meta"}:
            if torch.is_autocast_enabled(place):
                stack.enter_context(torch.autocast(place, enabled=False))
        yield
