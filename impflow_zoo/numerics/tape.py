"""Products with the Jacobian of a chain, and their gradient, by hand.

Autograd takes them apart into some twenty passes over every feature map, each of which writes a
new one. What is left here is one matrix product and one or two passes per layer, over so few rows
at a time that they stay in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.numerics.chain import Chain, Scratch, times
from impflow_zoo.numerics.graph import inputs_only, without_hooks

__all__ = ["Tape", "record"]

_FOLDED_FROM = 500  # rows from which it pays to take the last two matrices as one
_ONE_BY_ONE = 8  # up to so many products are added one by one: torch sums short dimensions slowly


@torch.no_grad()
def record(chain: Chain, x: Tensor) -> Tape:
    """Evaluate, and keep what products with the Jacobian need."""
    function = chain.function
    like = [(len(x), len(weight)) for weight in chain.weights]
    values, slopes = ([x.new_empty(shape) for shape in like[:-1]] for _ in range(2))
    kept = [x.new_empty(shape) for shape in like[:-1]] if function.keeps else values
    result = x.new_empty(like[-1])
    for rows in chain.parts(x, 1):
        value = _at(x, rows)
        for i, weight in enumerate(chain.weights):
            hidden = i < len(values)
            h = _at(slopes[i] if hidden else result, rows)
            times(value, weight.mT, chain.bias(i, rows), out=h)
            if hidden:
                value = _at(values[i], rows)
                function.record(h, value, _at(kept[i], rows))
    return Tape(chain, [x, *values], slopes, kept, result)


@dataclass
class Tape:
    """A chain at a batch of rows, with its feature maps.

    Arguments:
        chain: the net.
        values: the input, and the value of every hidden layer, `[B, n]` each.
        slopes: `f'` at every hidden layer.
        kept: what the second derivative of the function needs there beside these.
        result: the value of the net.
    """

    chain: Chain
    values: list[Tensor]
    slopes: list[Tensor]
    kept: list[Tensor]
    result: Tensor

    @torch.no_grad()
    def products(self, seeds: Tensor | None, *, keep: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Products of rows with the Jacobian, and what their gradient needs.

        Arguments:
            seeds: rows with shape `[B, k, d]`; None is the identity, and gives the Jacobian.
            keep: also return the products up to each hidden layer but the last: memory of the
                shape `[B, k, n]` that holds each part of the batch as `[k, rows, n]`, so that the
                slopes, which all `k` share, are one run of numbers.
        """
        weights, batch = self.chain.factors, self.result.shape[0]
        count = weights[-1].shape[0] if seeds is None else seeds.shape[1]
        folded = self.chain.folded if seeds is None and batch >= _FOLDED_FROM else []
        new = self.result.new_empty
        result = new(batch, count, weights[0].shape[1])
        maps = [new(batch, count, w.shape[1]) for w in weights[1:-1] if keep]
        scratch = Scratch(self.chain, self.result, count, 2)
        for rows in self.chain.parts(self.result, count):
            product = self.top(seeds, rows)
            for i in range(len(weights) - 2, -1, -1):
                slope = _at(self.slopes[i], rows)
                above, size = product, weights[i].shape[1]
                if keep and i > 0:
                    product = _block(maps[i - 1], rows)
                else:
                    product = scratch(1, count, slope.shape[0], size)
                if folded and i == len(weights) - 2:
                    for matrix, one in zip(folded, product.unbind(), strict=True):
                        torch.mm(slope, matrix, out=one)
                else:
                    through = scratch(0, count, *slope.shape)
                    torch.mul(above, slope, out=through)
                    times(through.flatten(0, 1), weights[i], out=product.flatten(0, 1))
            _at(result, rows).copy_(product.transpose(0, 1))
        return result, maps

    def top(self, seeds: Tensor | None, rows: slice) -> Tensor:
        """Products with the last matrix, `[k, rows, n]`; `[k, 1, n]` if seeds are the identity."""
        last = self.chain.weights[-1]
        return last[:, None] if seeds is None else _at(seeds, rows).transpose(0, 1) @ last

    def attach(self, x: Tensor, seeds: Tensor | None, *, value_only: bool) -> tuple[Any, ...]:
        """Value and products as one node of the graph that `x` and the weights belong to."""
        return _Attached.apply(self, seeds, value_only, x, *self.chain.weights, *self.chain.biases)


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tape: Tape, seeds: Tensor | None, value_only: bool, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        products, maps = (None, []) if value_only else tape.products(seeds, keep=True)
        ctx.function, ctx.layers, ctx.value_only = (
            tape.chain.function,
            len(tensors) // 2,
            value_only,
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(seeds, x, *tensors, *tape.values[1:], *tape.slopes, *tape.kept, *maps)
        return tape.result, products

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_products: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        n = ctx.layers
        if grad is None and grad_products is None:
            return (None,) * (4 + 2 * n)
        seeds, x, *saved = ctx.saved_tensors
        tensors, saved = saved[: 2 * n], saved[2 * n :]
        chain = Chain(ctx.function, tuple(tensors[:n]), tuple(tensors[n:]))
        if torch.is_grad_enabled():
            return None, None, None, *_again(chain, x, seeds, grad, grad_products)
        hidden, maps = saved[: 3 * (n - 1)], saved[3 * (n - 1) :]
        values, slopes, kept = (hidden[i * (n - 1) : (i + 1) * (n - 1)] for i in range(3))
        tape = Tape(chain, [x, *values], slopes, kept, x)
        # Biases that differ from row to row hold a context, which may depend on the input of a net
        # that this one is a part of.
        shared = all(bias.dim() == 1 for bias in chain.biases)
        parameters = any(ctx.needs_input_grad[4:]) and not (shared and inputs_only())
        gradient = _Gradient(tape, parameters=parameters)
        gradient.run(seeds, maps, grad, grad_products)
        # Laid out like their parameters, as autograd's own are.
        weights = [w.contiguous() for w in gradient.weights]
        grads = (*weights, *gradient.biases) if parameters else [None] * (2 * n)
        return None, None, None, gradient.x, *grads


class _Gradient:
    """The gradient of value and products, added up over parts of the batch."""

    def __init__(self, tape: Tape, *, parameters: bool) -> None:
        self.tape = tape
        self.parameters = parameters
        self.x = torch.empty_like(tape.values[0])
        chain = tape.chain
        self.weights = [_zeros(w) for w in chain.weights if parameters]
        self.biases = [torch.zeros_like(b) for b in chain.biases if parameters]
        self.folded: list[Tensor] = []  # `Chain.folded`, where it is used, and its gradient
        self.outer: list[Tensor] = []

    def run(
        self,
        seeds: Tensor | None,
        maps: list[Tensor],
        grad: Tensor | None,
        grad_products: Tensor | None,
    ) -> None:
        count = 1 if grad_products is None else grad_products.shape[1]
        chain, like = self.tape.chain, self.x
        scratch = Scratch(chain, like, count, 3)
        if seeds is None and grad_products is not None and len(like) >= _FOLDED_FROM:
            self.folded = chain.folded
            self.outer = [torch.zeros_like(m) for m in self.folded if self.parameters]
        for rows in chain.parts(like, count):
            bends: list[Tensor] = []
            if grad_products is not None:
                bends = self._up(rows, seeds, maps, _at(grad_products, rows), scratch)
            self._down(rows, None if grad is None else _at(grad, rows), bends, scratch)
        if self.outer:
            weight, last = chain.weights[-2:]
            outer = torch.stack(self.outer)
            self.weights[-2] += (last[:, :, None] * outer).sum(0)
            self.weights[-1] += (weight * outer).sum(2)

    def _up(
        self,
        rows: slice,
        seeds: Tensor | None,
        maps: list[Tensor],
        grad: Tensor,
        scratch: Scratch,
    ) -> list[Tensor]:
        """From the first layer to the last: weights, and the gradients of the slopes."""
        bends: list[Tensor] = []
        grad = grad.transpose(0, 1)
        count, size, _ = grad.shape
        weights = self.tape.chain.weights[:-1]
        for i, weight in enumerate(weights):
            if self.folded and i == len(weights) - 1:
                return [*bends, self._top(rows, grad, scratch(2, size, len(weight)))]
            below = _block(maps[i], rows) if i < len(maps) else self.tape.top(seeds, rows)
            slope = _at(self.tape.slopes[i], rows)
            through, other = (scratch(slot, count, size, len(weight)) for slot in (i % 2, 2))
            flat = grad.flatten(0, 1)
            torch.mm(flat, weight.mT, out=through.flatten(0, 1))
            if self.parameters:
                torch.mul(below, slope, out=other)
                self._add(i, other.flatten(0, 1), flat)
            bends.append(_dots(below, through, other))
            grad = through.mul_(slope)
        if self.parameters:
            if seeds is None:
                self.weights[-1] += grad.sum(1)
            else:
                self._add(-1, _at(seeds, rows).transpose(0, 1).flatten(0, 1), grad.flatten(0, 1))
        return bends

    def _top(self, rows: slice, grad: Tensor, bend: Tensor) -> Tensor:
        """The last step up where two matrices are one: what it adds, and the slopes' gradient."""
        slope = _at(self.tape.slopes[-1], rows)
        for k, one in enumerate(grad.unbind()):
            if k:
                bend.addmm_(one, self.folded[k].mT)
            else:
                torch.mm(one, self.folded[k].mT, out=bend)
            if self.parameters:
                self.outer[k].addmm_(slope.mT, one)
        return bend

    def _down(
        self, rows: slice, grad: Tensor | None, bends: list[Tensor], scratch: Scratch
    ) -> None:
        """From the last layer to the first, as in any net, with what the slopes add."""
        tape = self.tape
        weights = tape.chain.factors
        for i in range(len(weights) - 1, -1, -1):
            if i < len(weights) - 1:
                slope = _at(tape.slopes[i], rows)
                if grad is not None:
                    grad = grad.mul_(slope)
                if bends:
                    kept = _at(tape.kept[i], rows)
                    grad = tape.chain.function.bend(kept, slope, bends[i], grad)
            if grad is None:
                continue
            if self.parameters:
                self._add(i, grad, _at(tape.values[i], rows))
                if self.biases[i].dim() == 1:
                    self.biases[i] += grad.sum(0)
                else:
                    self.biases[i][rows] += grad
            below = scratch(i % 2, len(grad), weights[i].shape[1]) if i else _at(self.x, rows)
            grad = times(grad, weights[i], out=below)

    def _add(self, layer: int, left: Tensor, right: Tensor) -> None:
        self.weights[layer].addmm_(left.mT, right)


def _zeros(weight: Tensor) -> Tensor:
    """Zeros to which outer products are added: rows are the longer ones, as is faster."""
    height, width = weight.shape
    new = weight.new_zeros
    return new(width, height).mT if width < height else new(height, width)


def _dots(a: Tensor, b: Tensor, scratch: Tensor) -> Tensor:
    """Sums over the first of three dimensions of products."""
    if len(a) > _ONE_BY_ONE:
        return torch.mul(a, b, out=scratch).sum(0)
    (first, other), *pairs = zip(a.unbind(), b.unbind(), strict=True)
    total = first * other
    for first, other in pairs:
        total.addcmul_(first, other)
    return total


def _again(
    chain: Chain, x: Tensor, seeds: Tensor | None, grad: Tensor | None, products: Tensor | None
) -> list[Tensor | None]:
    """The gradient as a graph of its own."""
    inputs = [x, *chain.weights, *chain.biases]
    wanted = [t for t in inputs if t.requires_grad]
    pairs = zip(chain.differentiable(x, seeds), (grad, products), strict=True)
    outputs, grads = zip(*[(o, g) for o, g in pairs if g is not None], strict=True)
    with without_hooks(wanted):
        parts = torch.autograd.grad(outputs, wanted, grads, create_graph=True, allow_unused=True)
    found = iter(parts)
    return [next(found) if t.requires_grad else None for t in inputs]


def _at(x: Tensor, rows: slice) -> Tensor:
    """`x[rows]`, at no cost if that is all of it, as it is in small batches."""
    return x if rows.stop - rows.start == x.shape[0] else x[rows]


def _block(maps: Tensor, rows: slice) -> Tensor:
    """The part of products that `Tape.products` kept for these rows, `[k, rows, n]`.

    The rows have to be a part that it was filled by: chain, count and batch decide on these alone.
    """
    part = _at(maps, rows)
    return part.view(part.shape[1], part.shape[0], part.shape[2])
