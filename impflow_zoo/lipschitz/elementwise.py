"""The cores of activations with the derivatives that chains are differentiated by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["SiLU", "Sine"]


class Sine:
    """`sin(h)`."""

    def value(self, h: Tensor) -> Tensor:
        return torch.sin(h)

    def slope(self, h: Tensor) -> Tensor:
        return torch.cos(h)

    def overwrite(self, h: Tensor) -> Tensor:
        return h.sin_()

    def record(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = torch.cos(h)
        value = h.sin_()
        return value, slope, value

    def curvature(self, kept: Tensor) -> Tensor:
        return -kept


class SiLU:
    """`h sigmoid(h)`."""

    def value(self, h: Tensor) -> Tensor:
        return functional.silu(h)

    def slope(self, h: Tensor) -> Tensor:
        s = torch.sigmoid(h)
        return s * (1 + h * (1 - s))

    def overwrite(self, h: Tensor) -> Tensor:
        return functional.silu(h, inplace=True)

    def record(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = torch.sigmoid(h)
        value = h * s
        return value, torch.addcmul(value + s, value, s, value=-1), h

    def curvature(self, kept: Tensor) -> Tensor:
        s = torch.sigmoid(kept)
        return (s - s * s) * torch.addcmul(kept + 2, kept, s, value=-2)
