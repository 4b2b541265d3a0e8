"""The cores of activations with the derivatives that chains are differentiated by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["SiLU", "Sine"]


class Sine:
    """`sin(h)`."""

    keeps_input = False

    def value(self, h: Tensor) -> Tensor:
        return torch.sin(h)

    def slope(self, h: Tensor) -> Tensor:
        return torch.cos(h)

    def overwrite(self, h: Tensor) -> Tensor:
        return h.sin_()

    def record(self, h: Tensor, value: Tensor, slope: Tensor) -> None:
        torch.cos(h, out=slope)
        torch.sin(h, out=value)

    def bend(self, h: Tensor, t: Tensor) -> Tensor:
        return t.mul_(h).neg_()


class SiLU:
    """`h sigmoid(h)`."""

    keeps_input = True

    def value(self, h: Tensor) -> Tensor:
        return functional.silu(h)

    def slope(self, h: Tensor) -> Tensor:
        s = torch.sigmoid(h)
        return s * (1 + h * (1 - s))

    def overwrite(self, h: Tensor) -> Tensor:
        return functional.silu(h, inplace=True)

    def record(self, h: Tensor, value: Tensor, slope: Tensor) -> None:
        s = torch.sigmoid(h, out=slope)
        torch.mul(h, s, out=value)
        # s + value (1 - s), without cancellation where s is 1 and the value large
        torch.lerp(value, value.new_ones(()), s, out=slope)

    def bend(self, h: Tensor, t: Tensor) -> Tensor:
        s = torch.sigmoid(h)
        t.mul_(torch.addcmul(h, h, s, value=-2).add_(2))
        return t.mul_(s.addcmul_(s, s, value=-1))
