"""ActNorm for first batches of any kind."""

from __future__ import annotations

import nflows.transforms
import torch
from torch import Tensor

from impflow_zoo.numerics.finite import check_finite

__all__ = ["ActNorm"]


class ActNorm(nflows.transforms.ActNorm):
    """`exp(log_scale) x + shift`, initialised so that the first training batch is normalised.

    If this batch has one row or a constant column, the parameters of nflows' `ActNorm` are NaN.
    Here such columns keep their scale, and a batch without rows sets nothing.
    """

    @torch.no_grad()
    def _initialize(self, inputs: Tensor) -> None:
        if not len(inputs):
            return
        check_finite(inputs, "inputs")
        rows = inputs.movedim(1, -1).flatten(0, -2)
        std = rows.std(dim=0, correction=min(1, len(rows) - 1))
        std[rows.amin(dim=0) == rows.amax(dim=0)] = 1  # rounding may leave them more than 0
        self.log_scale.copy_(-std.log())
        self.shift.copy_(-(rows / std).mean(dim=0))
        self.initialized.fill_(value=True)
