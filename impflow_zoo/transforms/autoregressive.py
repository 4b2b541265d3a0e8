"""Autoregressive layers whose inverse maps each column once."""

from __future__ import annotations

import torch
from nflows.transforms.autoregressive import AutoregressiveTransform
from torch import Tensor

__all__ = ["ColumnByColumn"]


class ColumnByColumn(AutoregressiveTransform):
    """nflows' layer with an inverse in time `O(D)` for its elementwise maps, instead of `O(D^2)`.

    The inverse finds the columns one after the other, as each needs those before it. In each turn
    nflows maps all columns, and this layer the one that is found. Both evaluate the net `D` times.
    Sub-classes define the elementwise maps, as those of nflows do.

    Arguments:
        autoregressive_net: from rows `[B, D]` and contexts to the parameters of the elementwise
            maps, `[B, D n]`; those of a column follow from the columns before it.
    """

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise: all columns at once, by one evaluation of the net.

        Arguments:
            inputs: rows `x`, with shape `[B, D]`.
            context: one context per row, with shape `[B, context_features]`, or None.

        Returns:
            `z` with the shape and type of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            RuntimeError: for rows of another size or type.
        """
        answer: tuple[Tensor, Tensor] = super().forward(inputs, context)
        return answer

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data: one column after the other, by `D` evaluations of the net.

        Arguments:
            inputs: rows `z`, with shape `[B, D]`.
            context: one context per row, with shape `[B, context_features]`, or None.

        Returns:
            `x` with the shape and type of `z`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            RuntimeError: for rows of another size or type.
        """
        features = inputs.shape[1]
        found = torch.zeros_like(inputs)
        logabsdet = inputs.new_zeros(len(inputs))
        for i in range(features):
            parameters = self.autoregressive_net(found, context).unflatten(1, (features, -1))[:, i]
            column, own = self._elementwise_inverse(inputs[:, [i]], parameters)
            found = torch.cat((found[:, :i], column, found[:, i + 1 :]), dim=1)
            logabsdet = logabsdet + own
        return found, logabsdet
