"""The whole map of a model, which refuses rows that do not fit."""

from __future__ import annotations

import math
from collections.abc import Iterable

from nflows.transforms import CompositeTransform, Transform
from torch import Tensor

from impflow_zoo.numerics.modes import without_autocast
from impflow_zoo.transforms.base import check_finite

__all__ = ["WholeTransform"]


class WholeTransform(CompositeTransform):
    """A composite that refuses rows of another shape or type, and rows with NaN or infinity.

    Within `torch.autocast` it computes in the type of its parameters.

    Arguments:
        steps: the parts.
        shape: shape of one row of data. A row of noise is a vector of the same size.
    """

    def __init__(self, steps: Iterable[Transform], shape: tuple[int, ...]) -> None:
        super().__init__(list(steps))
        self.shape = tuple(shape)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _check(inputs, "inputs", self.shape)
        with without_autocast(inputs):
            return super().forward(inputs, self.seen(context))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _check(inputs, "noise", (math.prod(self.shape),))
        with without_autocast(inputs):
            return super().inverse(inputs, self.seen(context))

    def seen(self, context: Tensor | None) -> Tensor | None:
        """What the parts are given for contexts, `[B, ...]`; for None, None."""
        return context


def _check(x: Tensor, name: str, shape: tuple[int, ...]) -> None:
    if x.shape[1:] != shape:
        expected = ", ".join(map(str, ("B", *shape)))
        raise ValueError(f"{name} of shape {tuple(x.shape)}: this model takes [{expected}]")
    if not x.is_floating_point():
        raise ValueError(f"{name} of type {x.dtype}: floating point is needed")
    check_finite(x, name)
