"""Layers with fixed weights: the plain form of a folded net of bounded norm.

Everything it computes is an operation of torch. The other forms, `FoldedPerceptron` and
`FoldedConvolutions`, compute the same numbers in less time, and tests compare them with this one.
Transforms of `torch.func`, `torch.compile` and `torch.export` see this form. Of perceptrons with
known slopes it writes products with the Jacobian down: by the chain rule `v^T J` is `v^T W_n D_n
... D_1 W_1` with `D_i = diag(f_i'(h_i))`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.lipschitz.derivatives import DERIVATIVES
from impflow_zoo.numerics.folded import FoldedNet, Pullback
from impflow_zoo.numerics.modes import is_plain

__all__ = ["FoldedLayers"]

Function = Callable[[Tensor], Tensor]


class FoldedLayers(FoldedNet):
    """`x -> W_n f_n(... f_1(W_1 x + b_1) ...) + b_n`, of matrices or convolutions.

    With `mixing` a layer appends to its input instead: `[a h, b f(W h + b)]`.

    Arguments:
        shape: shape of one row.
        functions: `f_1` to the last, one less than weights.
        weights: matrices `[out, in]`, or kernels `[out, in, k, k]` that keep the size of images.
        biases: vectors `[out]`, or one vector for each row of the batch, `[B, out]`.
        first: a function that the input goes through, and the scalar before it; or None.
        mixing: the scalars `a` and `b` of each layer but the last, or None.

    Attributes:
        by_hand: the same net as a `FoldedPerceptron`, once somebody has asked for it.
    """

    shape: tuple[int, ...]
    by_hand: FoldedLayers | None = None

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

    def forward(self, x: Tensor) -> Tensor:
        if self.first is not None:
            function, before = self.first
            x = function(before * x)
        for i, function in enumerate(self.functions):
            h = function(affine(x, self.weights[i], self.biases[i]))
            x = h if self.mixing is None else mixed(x, h, self.mixing[i])
        return affine(x, self.weights[-1], self.biases[-1])

    def trace(self, x: Tensor) -> tuple[Tensor, Pullback]:
        known = all(function in DERIVATIVES for function in self.functions)
        matrices = self.weights[0].dim() == 2 and self.first is None and self.mixing is None
        return self._perceptron(x) if is_plain() and known and matrices else super().trace(x)

    def _perceptron(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """`g(x)` and `v -> v^T W_n D_n ... D_1 W_1`, with `D_i` the slopes of `f_i`."""
        steps: list[tuple[Tensor, Tensor]] = []  # slopes, and the weight before them
        for function, weight, bias in zip(self.functions, self.weights, self.biases, strict=False):
            h = affine(x, weight, bias)
            x = function(h)
            steps.append((DERIVATIVES[function].slope(h), weight))

        def pullback(v: Tensor) -> Tensor:
            v = v @ self.weights[-1]
            for slope, weight in reversed(steps):
                v = (v * slope) @ weight
            return v

        return affine(x, self.weights[-1], self.biases[-1]), pullback

    def rows(self, index: Tensor | slice) -> Self:
        if all(bias.dim() == 1 for bias in self.biases):
            return self
        return self.shifted([bias if bias.dim() == 1 else bias[index] for bias in self.biases])

    def shifted(self, biases: Sequence[Tensor]) -> Self:
        """The same with other biases."""
        parts = self.shape, self.functions, self.weights, biases, self.first, self.mixing
        return type(self)(*parts)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`W x + b`, with one bias for all rows or one for each."""
    shared = bias if bias.dim() == 1 else None
    if weight.dim() == 2:
        value = functional.linear(x, weight, shared)
    else:
        value = functional.conv2d(x, weight, shared, padding=weight.shape[-1] // 2)
    return value if bias.dim() == 1 else value + by_row(bias, x.dim())


def by_row(bias: Tensor, dims: int) -> Tensor:
    """Biases of rows, `[B, out]`, as something that is added to values of this many dimensions."""
    return bias.view(*bias.shape, *[1] * (dims - 2))


def mixed(x: Tensor, h: Tensor, scalars: tuple[Tensor, Tensor]) -> Tensor:
    """`[a x, b h]`, joined in the channel dimension."""
    old, new = scalars
    return torch.cat((old * x, new * h), dim=1)
