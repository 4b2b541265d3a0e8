"""Nets that are chains of affine maps and one elementwise function: what they are, their value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["CACHED", "Chain", "Chained", "Elementwise", "Scratch", "times"]

CACHED = 1 << 18  # entries of a feature map that are worked on at once on a CPU
_FEW_OUTPUTS = 3  # up to so many, the last two matrices are multiplied in advance, for each
_NARROWEST = 3  # columns up to which such a product is found transposed
_NARROW = 8  # columns up to which a matrix product reads its right side faster column by column


class Elementwise(Protocol):
    """A function of one variable, with its derivatives."""

    keeps: bool  # whether the second derivative needs a map of its own beside `f` and `f'`

    def value(self, h: Tensor) -> Tensor:
        """`f(h)`, differentiable."""

    def slope(self, h: Tensor) -> Tensor:
        """`f'(h)`, differentiable."""

    def overwrite(self, h: Tensor) -> Tensor:
        """`f(h)`, in the place of `h`."""

    def record(self, h: Tensor, value: Tensor, kept: Tensor) -> None:
        """Write `f(h)`, what `bend` needs beside it, and `f'(h)` in the place of `h`.

        Unless `keeps`, `kept` is `value` itself, and left at that.
        """

    def bend(self, kept: Tensor, slope: Tensor, t: Tensor, onto: Tensor | None) -> Tensor:
        """`f''(h) t` added to `onto`, or in the place of `t` if there is none.

        `kept` and `slope` are as `record` left them.
        """


class Chained:
    """Base of nets that can be taken apart."""

    def chain(self, x: Tensor, context: Tensor | None) -> Chain | None:
        """The net at a batch of rows, or None if it is no chain (it has hooks, for example).

        Arguments:
            x: rows with shape `[B, d]`; looked at for its shape alone.
            context: one context per row, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say what it consists of")


@dataclass(frozen=True)
class Chain:
    """`x -> W_n f(... f(W_1 x + b_1) ...) + b_n`.

    Arguments:
        function: `f`.
        weights: matrices, at least two.
        biases: vectors, or one vector for each row of the batch.
    """

    function: Elementwise
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """The value, without a graph."""
        with torch.no_grad():
            if self.part(x, 1) == len(x):
                return self._evaluate(x, self.biases)
            result = x.new_empty(len(x), len(self.weights[-1]))
            scratch = Scratch(self, x, 1, 2)
            for rows in self.parts(x, 1):
                biases = [self.bias(i, rows) for i in range(len(self.biases))]
                self._evaluate(x[rows], biases, scratch, result[rows])
            return result

    def _evaluate(
        self,
        x: Tensor,
        biases: Sequence[Tensor],
        scratch: Scratch | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        for i, weight in enumerate(self.weights[:-1]):
            place = None if scratch is None else scratch(i % 2, len(x), len(weight))
            x = self.function.overwrite(torch.addmm(biases[i], x, weight.mT, out=place))
        return times(x, self.weights[-1].mT, biases[-1], out)

    def bias(self, layer: int, rows: slice) -> Tensor:
        """The bias of a layer for some rows of the batch."""
        bias = self.biases[layer]
        return bias if bias.dim() == 1 else bias[rows]

    def part(self, x: Tensor, count: int) -> int:
        """Rows of which `count` feature maps stay in the cache of a CPU."""
        batch = max(len(x), 1)
        if x.device.type != "cpu":
            return batch
        return min(batch, max(CACHED // (count * self.width), 16))

    def parts(self, x: Tensor, count: int) -> Iterator[slice]:
        """The batch, cut into parts of that size."""
        batch, size = len(x), self.part(x, count)
        return (slice(i, min(i + size, batch)) for i in range(0, batch, size))

    @property
    def width(self) -> int:
        """The widest feature map."""
        return max(max(w.shape) for w in self.weights)

    @cached_property
    def factors(self) -> list[Tensor]:
        """The matrices without their graph, as factors on the right side of products."""
        return [_by_columns(weight.detach()) for weight in self.weights]

    @cached_property
    def folded(self) -> list[Tensor]:
        """The last two matrices as one for each output, `diag(w_k) W` for a row `w_k` of the last.

        The slopes of the last hidden layer times these are its products with the identity. Empty
        for more than a few outputs, where one product is faster than so many.
        """
        weight, last = (w.detach() for w in self.weights[-2:])
        if last.shape[0] > _FEW_OUTPUTS:
            return []
        return [_by_columns(matrix) for matrix in last[:, :, None] * weight]

    def negated(self) -> Chain:
        """The net with the other sign."""
        return Chain(
            self.function,
            (*self.weights[:-1], -self.weights[-1]),
            (*self.biases[:-1], -self.biases[-1]),
        )

    def differentiable(self, x: Tensor, seeds: Tensor | None) -> tuple[Tensor, Tensor]:
        """Value and products by torch's own operations: for derivatives of derivatives."""
        slopes = []
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = torch.nn.functional.linear(x, weight) + bias
            x = self.function.value(h)
            slopes.append(self.function.slope(h)[:, None])
        value = torch.nn.functional.linear(x, self.weights[-1]) + self.biases[-1]
        products = self.weights[-1] if seeds is None else seeds @ self.weights[-1]
        for weight, slope in zip(self.weights[-2::-1], reversed(slopes), strict=True):
            products = (products * slope) @ weight
        return value, products


def _by_columns(weight: Tensor) -> Tensor:
    """The matrix, laid out as `x @ weight` reads it fastest: 2 to 5 times so if it is narrow."""
    return weight.mT.contiguous().mT if weight.shape[1] <= _NARROW else weight


def times(
    x: Tensor, matrix: Tensor, bias: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """`x @ matrix + bias`, no graph; with two or three columns in a third to a half of the time.

    On CPUs, where a product of few long rows with `x^T` is as fast as reading `x` is.
    """
    if 1 < matrix.shape[1] <= _NARROWEST and x.device.type == "cpu":
        found = x.new_empty(matrix.shape[1], x.shape[0])  # autocast heeds what has no `out`
        found = torch.mm(matrix.mT, x.mT, out=found).mT
        out = x.new_empty(found.shape) if out is None else out
        return out.copy_(found) if bias is None else torch.add(found, bias, out=out)
    if bias is None:
        return torch.mm(x, matrix, out=out)
    return torch.addmm(bias, x, matrix, out=out)


class Scratch:
    """Memory for the feature maps of a part, used for one part after another while it is warm."""

    def __init__(self, chain: Chain, like: Tensor, count: int, slots: int) -> None:
        self.memory = like.new_empty(slots, chain.part(like, count) * count * chain.width)

    def __call__(self, slot: int, *shape: int) -> Tensor:
        return self.memory[slot, : math.prod(shape)].view(shape)
