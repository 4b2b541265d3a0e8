"""ActNorm for first batches of any kind."""

from __future__ import annotations

import nflows.transforms
import torch
from torch import Tensor

from impflow_zoo.numerics.finite import check_finite
from impflow_zoo.transforms.first_batch import FirstBatch

__all__ = ["ActNorm"]


class ActNorm(FirstBatch, nflows.transforms.ActNorm):
    """`exp(log_scale) x + shift`, initialised so that the first training batch is normalised.

    If this batch has one row or a constant column, the parameters of nflows' `ActNorm` are NaN.
    Here such columns keep their scale, and a batch without rows sets nothing.

    Arguments:
        features: columns of rows, `[B, features]`, or channels of images, `[B, features, H, W]`.
    """

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: rows `[B, features]` or images `[B, features, H, W]`.
            context: has no effect.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            ValueError: for neither of the two.
            RuntimeError: for another number of features, and as `start`.
            NotFiniteError: for a first training batch with NaN or infinity.
        """
        if inputs.dim() not in (2, 4):
            raise ValueError(f"inputs of shape {tuple(inputs.shape)}: rows or images are needed")
        self.start(inputs)
        scale, shift = self._broadcastable_scale_shift(inputs)
        logabsdet = inputs.shape[2:].numel() * self.log_scale.sum()
        return scale * inputs + shift, logabsdet.expand(len(inputs))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `[B, features]` or images `[B, features, H, W]`.
            context: has no effect.

        Returns:
            `x` with the shape of `z`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            ValueError: for neither of the two.
            RuntimeError: for another number of features.
        """
        answer: tuple[Tensor, Tensor] = super().inverse(inputs, context)
        return answer

    @torch.no_grad()
    def initialise(self, inputs: Tensor) -> None:
        check_finite(inputs, "inputs")
        rows = inputs.movedim(1, -1).flatten(0, -2)
        std = rows.std(dim=0, correction=min(1, len(rows) - 1))
        std[rows.amin(dim=0) == rows.amax(dim=0)] = 1  # rounding may leave them more than 0
        self.log_scale.copy_(-std.log())
        self.shift.copy_(-(rows / std).mean(dim=0))
        self.initialized.fill_(value=True)
