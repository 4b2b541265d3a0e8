"""Convolutions whose weights are fixed: what nets on images come to for one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.numerics.bound import BoundNet

__all__ = ["Convolution", "Convolutions", "Function"]

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Convolution:
    """A convolution that keeps the size of images.

    Arguments:
        weight: kernels, with shape `[out, in, k, k]`.
        bias: one number for each output channel.
        added: one number for each row and output channel, `[B, out, 1, 1]`, or None.
    """

    weight: Tensor
    bias: Tensor
    added: Tensor | None = None

    @property
    def padding(self) -> int:
        """Zeros on each side."""
        return self.weight.shape[-1] // 2


class Convolutions(BoundNet):
    """Convolutions with functions between them, each of which sees what the last one found.

    With `parts` a layer appends to its input instead: `[a h, b f(conv(h))]`.

    Arguments:
        shape: of one image.
        functions: one after each convolution but the last.
        convolutions: the convolutions.
        first: a function that the input goes through, and the scalar before it; or None.
        parts: the scalars `a` and `b` of each layer, or None.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        functions: Sequence[Function],
        convolutions: Sequence[Convolution],
        first: tuple[Function, Tensor | float] | None = None,
        parts: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.shape: tuple[int, ...] = shape
        self.functions, self.convolutions = functions, convolutions
        self.first, self.parts = first, parts
        held: list[Any] = [t for c in convolutions for t in (c.weight, c.bias, c.added)]
        held += [] if first is None else [first[1]]
        held += [] if parts is None else [t for pair in parts for t in pair]
        self.tensors = [t for t in held if isinstance(t, Tensor)]

    def in_graph(self, x: Tensor) -> Tensor:
        h = x
        if self.first is not None:
            function, before = self.first
            h = self.apply(function, before * h)
        for i, function in enumerate(self.functions):
            found = self.apply(function, self.convolve(h, self.convolutions[i]))
            if self.parts is None:
                h = found
            else:
                old, new = self.parts[i]
                h = torch.cat((old * h, new * found), dim=1)
        return self.convolve(h, self.convolutions[-1])

    def convolve(self, x: Tensor, convolution: Convolution) -> Tensor:
        """One convolution."""
        weight, bias = convolution.weight, convolution.bias
        y = functional.conv2d(x, weight, bias, padding=convolution.padding)
        return y if convolution.added is None else y + convolution.added

    def apply(self, function: Function, x: Tensor) -> Tensor:
        """One function."""
        return function(x)

    def rows(self, index: Tensor) -> Convolutions:
        if all(c.added is None for c in self.convolutions):
            return self
        return self._with(
            [c if c.added is None else replace(c, added=c.added[index]) for c in self.convolutions]
        )

    def negated(self) -> Convolutions:
        *others, last = self.convolutions
        return self._with([*others, Convolution(-last.weight, -last.bias)])

    def _with(self, convolutions: Sequence[Convolution]) -> Convolutions:
        return type(self)(self.shape, self.functions, convolutions, self.first, self.parts)
