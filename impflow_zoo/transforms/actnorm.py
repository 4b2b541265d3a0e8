"""ActNorm in the form that published weights have."""

from __future__ import annotations

import torch
from nflows.transforms import ActNorm
from torch import Tensor

__all__ = ["CentredActNorm"]


class CentredActNorm(ActNorm):
    """`exp(log_scale) (x + shift)`, where nflows' own is `exp(log_scale) x + shift`.

    The same maps, but numbers of one form are not numbers of the other in the same precision.
    """

    def _broadcastable_scale_shift(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = super()._broadcastable_scale_shift(inputs)
        return scale, scale * shift

    @torch.no_grad()
    def _initialize(self, inputs: Tensor) -> None:
        super()._initialize(inputs)
        self.shift.div_(self.scale)
