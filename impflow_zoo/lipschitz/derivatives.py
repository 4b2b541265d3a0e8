"""Elementwise functions with first and second derivatives, written in place.

`record` writes what the first two need, from one evaluation of the transcendental part:

    sin(h)          f' = cos(h)                     f'' = -f
    h + sin(h)      f' = 1 + cos(h)                 f'' = -sin(h)
    h s(h)          f' = s + f (1 - s)              f'' = s (1 - f') + (1 - s) f'     (s = sigmoid)

NumPy takes less than half of the time of torch for sines in float32 on one thread of processors by
AMD, and a fifth more on those by Intel. Users ask for it by `IMPFLOW_ZOO_SINES=numpy`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.lipschitz.activations import half_sine

__all__ = ["DERIVATIVES", "Elementwise", "HalfSine", "SiLU", "Sine", "in_place"]


class Elementwise(ABC):
    """A function `f` of every entry, and its derivatives.

    Attributes:
        function: `f`, in torch's operations.
        keeps: whether the second derivative needs a map of its own beside `f` and `f'`.
    """

    function: Callable[[Tensor], Tensor]
    keeps: ClassVar[bool] = True

    @abstractmethod
    def slope(self, h: Tensor) -> Tensor:
        """`f'(h)`, in torch's operations."""

    @abstractmethod
    def overwrite(self, h: Tensor) -> Tensor:
        """`f(h)`, in the place of `h`."""

    @abstractmethod
    def record(self, h: Tensor, value: Tensor, kept: Tensor) -> None:
        """Write `f(h)` to `value`, which is `kept` unless `keeps`, and `f'(h)` over `h`."""

    @abstractmethod
    def kept(self, h: Tensor, value: Tensor) -> Tensor:
        """What `record` writes to `kept`, from `h` and `f(h)`."""

    @abstractmethod
    def bend(self, kept: Tensor, slope: Tensor, t: Tensor, onto: Tensor | None) -> Tensor:
        """`f''(h) t` added to `onto`, or in the place of `t` if there is none.

        `kept` and `slope` are as `record` left them.
        """


class _WithSine(Elementwise):
    """A function made of a sine.

    Arguments:
        by_numpy: whether NumPy computes sines in place, where it can.
    """

    def __init__(self, *, by_numpy: bool = False) -> None:
        self.by_numpy = by_numpy

    def sine(self, h: Tensor, out: Tensor) -> Tensor:
        """`sin(h)`, written to `out`."""
        return _by_numpy(np.sin, h, out) if self._uses_numpy(h) else torch.sin(h, out=out)

    def cosine(self, h: Tensor, out: Tensor) -> Tensor:
        """`cos(h)`, written to `out`."""
        return _by_numpy(np.cos, h, out) if self._uses_numpy(h) else torch.cos(h, out=out)

    def _uses_numpy(self, h: Tensor) -> bool:
        return self.by_numpy and h.dtype == torch.float32 and h.device.type == "cpu"


class Sine(_WithSine):
    """`sin(h)`."""

    function = staticmethod(torch.sin)
    keeps = False

    def slope(self, h: Tensor) -> Tensor:
        return torch.cos(h)

    def overwrite(self, h: Tensor) -> Tensor:
        return self.sine(h, out=h)

    def record(self, h: Tensor, value: Tensor, kept: Tensor) -> None:
        self.sine(h, out=value)
        self.cosine(h, out=h)

    def kept(self, h: Tensor, value: Tensor) -> Tensor:
        return value

    def bend(self, kept: Tensor, slope: Tensor, t: Tensor, onto: Tensor | None) -> Tensor:
        return _minus(kept, t, onto)


class HalfSine(_WithSine):
    """`h + sin(h)`; its second derivative needs the sine."""

    function = staticmethod(half_sine)

    def slope(self, h: Tensor) -> Tensor:
        return 1 + torch.cos(h)

    def overwrite(self, h: Tensor) -> Tensor:
        return h.add_(self.sine(h, out=torch.empty_like(h)))

    def record(self, h: Tensor, value: Tensor, kept: Tensor) -> None:
        self.sine(h, out=kept)
        torch.add(h, kept, out=value)
        self.cosine(h, out=h).add_(1)

    def kept(self, h: Tensor, value: Tensor) -> Tensor:
        return value - h

    def bend(self, kept: Tensor, slope: Tensor, t: Tensor, onto: Tensor | None) -> Tensor:
        return _minus(kept, t, onto)


class SiLU(Elementwise):
    """`h sigmoid(h)`; its second derivative needs the sigmoid."""

    function = staticmethod(functional.silu)

    def slope(self, h: Tensor) -> Tensor:
        s = torch.sigmoid(h)
        return s + h * s * (1 - s)

    def overwrite(self, h: Tensor) -> Tensor:
        return functional.silu(h, inplace=True)

    def record(self, h: Tensor, value: Tensor, kept: Tensor) -> None:
        s = torch.sigmoid(h, out=kept)
        torch.mul(h, s, out=value)
        # s + value (1 - s), without cancellation where s is 1 and the value large
        torch.lerp(value, value.new_ones(()), s, out=h)

    def kept(self, h: Tensor, value: Tensor) -> Tensor:
        return torch.sigmoid(h)

    def bend(self, kept: Tensor, slope: Tensor, t: Tensor, onto: Tensor | None) -> Tensor:
        # s (1 - f') + (1 - s) f', with the sigmoid s that was kept
        second = torch.add(kept, slope).addcmul_(kept, slope, value=-2)
        return t.mul_(second) if onto is None else onto.addcmul_(t, second)


def _by_numpy(function: Callable[..., Any], h: Tensor, out: Tensor) -> Tensor:
    with np.errstate(all="ignore"):  # the sine of infinity is NaN here as there, in silence
        function(h.numpy(), out=out.numpy())
    return out


def _minus(sine: Tensor, t: Tensor, onto: Tensor | None) -> Tensor:
    """`-sin(h) t`, as `bend` returns it."""
    return t.mul_(sine).neg_() if onto is None else onto.addcmul_(t, sine, value=-1)


# By the functions that nets are made of.
DERIVATIVES: dict[Callable[[Tensor], Tensor], Elementwise] = {
    f.function: f for f in (Sine(), HalfSine(), SiLU())
}
_BY_NUMPY = DERIVATIVES | {f.function: f for f in (Sine(by_numpy=True), HalfSine(by_numpy=True))}


def in_place(function: Callable[[Tensor], Tensor]) -> Elementwise:
    """Its derivatives as they are computed in place, by NumPy if users ask for it.

    Arguments:
        function: one of `DERIVATIVES`.
    """
    asked = os.environ.get("IMPFLOW_ZOO_SINES") == "numpy"
    return (_BY_NUMPY if asked else DERIVATIVES)[function]
