"""Layers with fixed weights: the form of a net of bounded norm during one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.numerics.bound import BoundNet

__all__ = ["BoundLayers"]

Function = Callable[[Tensor], Tensor]


class BoundLayers(BoundNet):
    """`x -> W_n f_n(... f_1(W_1 x + b_1) ...) + b_n`, of matrices or convolutions.

    With `mixing` a layer appends to its input instead: `[a h, b f(W h + b)]`.

    Arguments:
        shape: shape of one row.
        functions: `f_1` to the last, one less than weights.
        weights: matrices `[out, in]`, or kernels `[out, in, k, k]` that keep the size of images.
        biases: vectors `[out]`, or one vector for each row of the batch, `[B, out]`.
        first: a function that the input goes through, and the scalar before it; or None.
        mixing: the scalars `a` and `b` of each layer but the last, or None.
    """

    shape: tuple[int, ...]

    def __init__(
        self,
        shape: tuple[int, ...],
        functions: Sequence[Function],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        first: tuple[Function, Tensor | float] | None = None,
        mixing: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.shape, self.functions, self.weights, self.biases = shape, functions, weights, biases
        self.first, self.mixing = first, mixing
        scalars = [*(first or ())[1:], *(scalar for pair in mixing or () for scalar in pair)]
        called = (*functions, *(first or ())[:1])  # functions, or modules with parameters
        own = [p for function in called for p in getattr(function, "parameters", tuple)()]
        self.tensors = (*weights, *biases, *(s for s in scalars if isinstance(s, Tensor)), *own)

    def in_graph(self, x: Tensor) -> Tensor:
        if self.first is not None:
            function, before = self.first
            x = self.apply(function, before * x)
        for i, function in enumerate(self.functions):
            found = self.apply(function, self.affine(x, self.weights[i], self.biases[i]))
            if self.mixing is None:
                x = found
            else:
                old, new = self.mixing[i]
                x = torch.cat((old * x, new * found), dim=1)
        return self.affine(x, self.weights[-1], self.biases[-1])

    def affine(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`W x + b`."""
        if bias.dim() == 2:
            return self.linear(x, weight, None) + bias.view(*bias.shape, *[1] * (x.dim() - 2))
        return self.linear(x, weight, bias)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`W x + b` with one vector for all rows, or none."""
        if weight.dim() == 2:
            return functional.linear(x, weight, bias)
        return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def apply(self, function: Function, x: Tensor) -> Tensor:
        """One function, of a fresh tensor, which it may overwrite."""
        return function(x)

    def rows(self, index: Tensor | slice) -> Self:
        if all(bias.dim() == 1 for bias in self.biases):
            return self
        biases = [bias if bias.dim() == 1 else bias[index] for bias in self.biases]
        return self.having(self.weights, biases)

    def negated(self) -> Self:
        weights, biases = ((*tensors[:-1], -tensors[-1]) for tensors in (self.weights, self.biases))
        return self.having(weights, biases)

    def having(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Self:
        """The same with other weights and biases."""
        return type(self)(self.shape, self.functions, weights, biases, self.first, self.mixing)
