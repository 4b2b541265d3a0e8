"""Standardisation of tables."""

from __future__ import annotations

import torch
from nflows.transforms import PointwiseAffineTransform
from torch import Tensor

__all__ = ["Standardise"]


class Standardise(PointwiseAffineTransform):
    """`scale x + shift` of each column; the identity until `set` is called.

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
