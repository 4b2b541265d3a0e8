"""Standardisation of tables."""

from __future__ import annotations

import torch
from nflows.transforms import PointwiseAffineTransform
from torch import Tensor

__all__ = ["Standardise"]


class Standardise(PointwiseAffineTransform):
    """`scale x + shift` of each column; the identity until `set` is called.

    nflows' own also accepts rows of other sizes that broadcast, and integers.

    Arguments:
        features: number of columns.
    """

    def __init__(self, features: int) -> None:
        # nflows looks at the numbers, which a model that is only counted does not have.
        super(PointwiseAffineTransform, self).__init__()
        self.register_buffer("_shift", torch.zeros(features))
        self.register_buffer("_scale", torch.ones(features))

    @torch.no_grad()
    def set(self, mean: Tensor, std: Tensor) -> None:
        """Standardise columns with these means and standard deviations."""
        self._scale.copy_(1 / std)
        self._shift.copy_(-mean / std)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        (features,) = self._shift.shape
        if inputs.dim() != 2 or inputs.shape[1] != features:
            raise ValueError(
                f"inputs of shape {tuple(inputs.shape)}: this model takes [B, {features}]"
            )
        if not inputs.is_floating_point():
            raise ValueError(f"inputs of type {inputs.dtype}: floating point is needed")
        return super().forward(inputs, context)
