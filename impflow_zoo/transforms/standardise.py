"""Standardisation of tables."""

from __future__ import annotations

import torch
from nflows.transforms import Transform
from torch import Tensor

__all__ = ["Standardise"]


class Standardise(Transform):
    """`scale x + shift` of each column; the identity until `set` is called.

    Arguments:
        features: number of columns.
    """

    _shift: Tensor
    _scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("_shift", torch.zeros(features))
        self.register_buffer("_scale", torch.ones(features))

    @torch.no_grad()
    def set(self, mean: Tensor, std: Tensor) -> None:
        """Standardise columns with these means and standard deviations.

        Arguments:
            mean, std: of each column, with shape `[features]`; no `std` may be 0.

        Raises:
            RuntimeError: for tensors of another size.
        """
        self._scale.copy_(1 / std)
        self._shift.copy_(-mean / std)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: rows `x` with shape `[B, features]`.
            context: has no effect.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            RuntimeError: for rows of another size.
        """
        return inputs * self._scale + self._shift, self._logabsdet(inputs)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `z` with shape `[B, features]`.
            context: has no effect.

        Returns:
            `x` with the shape of `z`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            RuntimeError: for rows of another size.
        """
        return (inputs - self._shift) / self._scale, -self._logabsdet(inputs)

    def _logabsdet(self, inputs: Tensor) -> Tensor:
        """The same for every row, `[B]`."""
        return self._scale.log().sum().expand(len(inputs))
