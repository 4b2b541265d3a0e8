"""Elementwise functions with first and second derivatives, written in place.

`record` writes what the first two need, from one evaluation of the transcendental part:

    sin(h)          f' = cos(h)                     f'' = -f
    h + sin(h)      f' = 1 + cos(h)                 f'' = -sin(h)
    h s(h)          f' = s + f (1 - s)              f'' = s (1 - f') + (1 - s) f'     (s = sigmoid)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.lipschitz.activations import half_sine

__all__ = ["DERIVATIVES", "Elementwise", "HalfSine", "SiLU", "Sine"]


class Elementwise(ABC):
    """A function `f` of every entry, and its derivatives.

    Attributes:
        function: `f`, in torch's operations.
        keeps: whether the second derivative needs a map of its own beside `f` and `f'`.
    """

    function: Callable[[Tensor], Tensor]
    keeps: ClassVar[bool] = True

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


class Sine(Elementwise):
    """`sin(h)`."""

    function = staticmethod(torch.sin)
    keeps = False

    def overwrite(self, h: Tensor) -> Tensor:
        return h.sin_()

    def record(self, h: Tensor, value: Tensor, kept: Tensor) -> None:
        torch.sin(h, out=value)
        h.cos_()

    def kept(self, h: Tensor, value: Tensor) -> Tensor:
        return value

    def bend(self, kept: Tensor, slope: Tensor, t: Tensor, onto: Tensor | None) -> Tensor:
        return _minus(kept, t, onto)


class HalfSine(Elementwise):
    """`h + sin(h)`; its second derivative needs the sine."""

    function = staticmethod(half_sine)

    def overwrite(self, h: Tensor) -> Tensor:
        return h.add_(torch.sin(h))

    def record(self, h: Tensor, value: Tensor, kept: Tensor) -> None:
        torch.sin(h, out=kept)
        torch.add(h, kept, out=value)
        h.cos_().add_(1)

    def kept(self, h: Tensor, value: Tensor) -> Tensor:
        return value - h

    def bend(self, kept: Tensor, slope: Tensor, t: Tensor, onto: Tensor | None) -> Tensor:
        return _minus(kept, t, onto)


class SiLU(Elementwise):
    """`h sigmoid(h)`; its second derivative needs the sigmoid."""

    function = staticmethod(functional.silu)

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


def _minus(sine: Tensor, t: Tensor, onto: Tensor | None) -> Tensor:
    """`-sin(h) t`, as `bend` returns it."""
    return t.mul_(sine).neg_() if onto is None else onto.addcmul_(t, sine, value=-1)


# By the functions that nets are made of.
DERIVATIVES: dict[Callable[[Tensor], Tensor], Elementwise] = {
    f.function: f for f in (Sine(), HalfSine(), SiLU())
}
