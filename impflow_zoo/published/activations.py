"""Activations that published weights were trained with, and that we would not choose for new ones.

All have Lipschitz constant 1.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import ACTIVATIONS

__all__ = ["ALL_ACTIVATIONS"]


class _LipschitzCube(nn.Module):
    """`x^3 / 3` between -1 and 1, with slope 1 beyond (Chen et al., 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        inner = x.clamp(-1, 1)
        return inner**3 / 3 + (x - inner)


class _FullSort(nn.Module):
    """Sort the channels of each row (Anil et al., 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sort(dim=1).values


class _NeighbourMaxMin(nn.Module):
    """The larger ones of neighbouring channels, then the smaller ones.

    `MaxMin` pairs channels half the width apart instead.
    """

    pairs: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, ::2], x[:, 1::2]
        return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), dim=1)


ALL_ACTIVATIONS: dict[str, type[nn.Module]] = {
    **ACTIVATIONS,
    "published-relu": nn.ReLU,
    "published-tanh": nn.Tanh,
    "published-identity": nn.Identity,
    "published-lcube": _LipschitzCube,
    "published-fullsort": _FullSort,
    "published-maxmin": _NeighbourMaxMin,
}
