"""Nets of a block, made ready for one call."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from impflow_zoo.numerics.bound import BoundNet, ModuleNet
from impflow_zoo.numerics.compiled import unwrapped

try:
    from impflow_zoo.fast import faster
except ModuleNotFoundError:  # the room was deleted: everything works, slower

    def faster(net: BoundNet) -> BoundNet:
        """The net itself."""
        return net


__all__ = ["bind"]


def bind(net: nn.Module, context: Tensor | None) -> BoundNet:
    """A net at a context, with what does not depend on its rows computed once.

    A net that defines `bind(context)` prepares itself (see `BoundNet`); any other one, or one that
    answers None, is called as it is, by `ModuleNet`.

    Arguments:
        net: any module from `[B, ...]` to the same shape.
        context: one context per row, or None.
    """
    own, inner = None, unwrapped(net)  # nets that bind themselves need no compiler
    if _defines_bind(inner):
        own = inner.bind(context)
    return ModuleNet(net, context) if own is None else faster(own)


def _defines_bind(net: Any) -> bool:
    """Whether a net has a method `bind` that is as old as its `forward`."""
    kind = type(net)
    owners = [
        next((base for base in kind.__mro__ if name in vars(base)), None)
        for name in ("bind", "forward", "__call__")
    ]
    binds, forwards, calls = owners
    if binds is None or forwards is None or not {"bind", "forward"}.isdisjoint(vars(net)):
        return False
    return issubclass(binds, forwards) and calls is nn.Module
