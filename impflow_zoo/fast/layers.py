"""The layers of a perceptron, walked through in parts of a batch that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from impflow_zoo.fast.elementwise import Elementwise

__all__ = ["CACHED", "Layers", "Scratch", "at", "times"]

CACHED = 1 << 18  # entries of a feature map that are worked on at once on a CPU
_NARROWEST = 3  # columns up to which a product is found transposed
_NARROW = 8  # columns up to which a matrix product reads its right side faster column by column


class Layers:
    """Numbers of a perceptron, without graphs.

    Arguments:
        function: the elementwise function between the matrices.
        weights: matrices, at least two.
        biases: vectors, or one vector for each row of the batch.
    """

    def __init__(
        self, function: Elementwise, weights: Sequence[Tensor], biases: Sequence[Tensor]
    ) -> None:
        self.function = function
        self.weights = [weight.detach() for weight in weights]
        self.biases = [bias.detach() for bias in biases]
        self.width = max(max(weight.shape) for weight in weights)

    def __call__(self, x: Tensor) -> Tensor:
        """The value of the perceptron."""
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

    @cached_property
    def factors(self) -> list[Tensor]:
        """The matrices as factors on the right side of products.

        Narrow ones are laid out column by column: products read them 2 to 5 times as fast.
        """
        return [
            weight.mT.contiguous().mT if weight.shape[1] <= _NARROW else weight
            for weight in self.weights
        ]


class Scratch:
    """Memory for the feature maps of a part, used for one part after another while it is warm."""

    def __init__(self, layers: Layers, like: Tensor, count: int, slots: int) -> None:
        self.memory = like.new_empty(slots, layers.part(like, count) * count * layers.width)

    def __call__(self, slot: int, *shape: int) -> Tensor:
        return self.memory[slot, : math.prod(shape)].view(shape)


def times(
    x: Tensor, matrix: Tensor, bias: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """`x @ matrix + bias`; on CPUs two or three columns are found transposed, in half the time."""
    if 1 < matrix.shape[1] <= _NARROWEST and x.device.type == "cpu":
        found = torch.mm(matrix.mT, x.mT).mT
        out = x.new_empty(found.shape) if out is None else out
        return out.copy_(found) if bias is None else torch.add(found, bias, out=out)
    if bias is None:
        return torch.mm(x, matrix, out=out)
    return torch.addmm(bias, x, matrix, out=out)


def at(x: Tensor, rows: slice) -> Tensor:
    """`x[rows]`, at no cost if that is all of it, as it is in small batches."""
    return x if rows.stop - rows.start == x.shape[0] else x[rows]
