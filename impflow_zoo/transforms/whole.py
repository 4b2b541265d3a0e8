"""The whole map of a model, which refuses rows that do not fit."""

from __future__ import annotations

import math
from collections.abc import Iterable

from nflows.transforms import CompositeTransform, Transform
from torch import Tensor

from impflow_zoo.transforms.base import check_finite

__all__ = ["WholeTransform", "require_floats", "require_rows"]


class WholeTransform(CompositeTransform):
    """A composite that refuses rows of another shape or type, and rows with NaN or infinity.

    Arguments:
        steps: the parts.
        shape: shape of one row of data. A row of noise is a vector of the same size.
    """

    def __init__(self, steps: Iterable[Transform], shape: tuple[int, ...]) -> None:
        super().__init__(list(steps))
        self.shape = tuple(shape)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        require_rows(inputs, "inputs", self.shape)
        require_floats(inputs, "inputs")
        return super().forward(inputs, context)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        require_rows(inputs, "noise", (math.prod(self.shape),))
        require_floats(inputs, "noise")
        return super().inverse(inputs, context)


def require_rows(x: object, name: str, shape: tuple[int, ...], rows: int | None = None) -> None:
    """Refuse what is no tensor of rows of a shape, and another number of them, if one is given."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} of type {type(x).__name__}: a torch tensor is needed")
    if x.shape[1:] != shape or rows not in (None, len(x)):
        asked = "" if rows is None else f"for {rows} rows "
        expected = ", ".join(map(str, ("B" if rows is None else rows, *shape)))
        raise ValueError(f"{name} of shape {tuple(x.shape)}: {asked}this model takes [{expected}]")


def require_floats(x: Tensor, name: str) -> None:
    """Refuse other types, NaN and infinity."""
    if not x.is_floating_point():
        raise ValueError(
            f"{name} of type {x.dtype}: floating point is needed "
            "(images: dequantise to [0, 1] first)"
        )
    check_finite(x, name)
