"""A perceptron at a batch of rows: products with its Jacobian, and their gradient, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from impflow_zoo.fast.elementwise import Elementwise
from impflow_zoo.fast.layers import Layers, Scratch, at, times
from impflow_zoo.lipschitz.bound_perceptron import BoundPerceptron
from impflow_zoo.numerics.linearize import Linearization

__all__ = ["Maps", "Tape", "record"]


@dataclass(frozen=True)
class Maps:
    """The feature maps of a batch, without graphs.

    Arguments:
        layers: the perceptron.
        values: the input, and the value of every hidden layer, `[B, n]` each.
        slopes: `f'` at every hidden layer.
        kept: what the second derivative of the function needs there beside these.
        result: the value of the perceptron.
    """

    layers: Layers
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
        weights, batch = self.layers.factors, self.result.shape[0]
        count = weights[-1].shape[0] if seeds is None else seeds.shape[1]
        new = self.result.new_empty
        result = new(batch, count, weights[0].shape[1])
        maps = [new(batch, count, w.shape[1]) for w in weights[1:-1] if keep]
        scratch = Scratch(self.layers, self.result, count, 2)
        for rows in self.layers.parts(self.result, count):
            product = self.top(seeds, rows)
            for i in range(len(weights) - 2, -1, -1):
                slope = at(self.slopes[i], rows)
                above, size = product, weights[i].shape[1]
                if keep and i > 0:
                    product = _block(maps[i - 1], rows)
                else:
                    product = scratch(1, count, slope.shape[0], size)
                through = scratch(0, count, *slope.shape)
                torch.mul(above, slope, out=through)
                times(through.flatten(0, 1), weights[i], out=product.flatten(0, 1))
            at(result, rows).copy_(product.transpose(0, 1))
        return result, maps

    def top(self, seeds: Tensor | None, rows: slice) -> Tensor:
        """Products with the last matrix, `[k, rows, n]`; `[k, 1, n]` if seeds are the identity."""
        last = self.layers.weights[-1]
        return last[:, None] if seeds is None else at(seeds, rows).transpose(0, 1) @ last


@torch.no_grad()
def record(layers: Layers, x: Tensor) -> Maps:
    """Evaluate a perceptron, and keep what products with its Jacobian need."""
    function = layers.function
    like = [(len(x), len(weight)) for weight in layers.weights]
    values, slopes = ([x.new_empty(shape) for shape in like[:-1]] for _ in range(2))
    kept = [x.new_empty(shape) for shape in like[:-1]] if function.keeps else values
    result = x.new_empty(like[-1])
    for rows in layers.parts(x, 1):
        value = at(x, rows)
        for i, weight in enumerate(layers.weights):
            hidden = i < len(values)
            h = at(slopes[i] if hidden else result, rows)
            times(value, weight.mT, layers.bias(i, rows), out=h)
            if hidden:
                value = at(values[i], rows)
                function.record(h, value, at(kept[i], rows))
    return Maps(layers, [x.detach(), *values], slopes, kept, result)


class Tape(Linearization):
    """A linearization whose products need no graph.

    What enters the caller's graph is one node: the value with the products that are asked for in
    it, or alone. Until then `value` has no graph.

    Arguments:
        net: the perceptron.
        x: where it was evaluated, `[B, d]`.
        maps: what was recorded there.
    """

    def __init__(self, net: BoundPerceptron, x: Tensor, maps: Maps) -> None:
        super().__init__(net, x, maps.result)
        self.perceptron, self.tensors, self.maps = net, net.tensors, maps

    def vjp(self, v: Tensor, *, create_graph: bool = False) -> Tensor:
        if create_graph:
            raise NotImplementedError("only linearize(x, differentiable=True) can do this")
        return self.maps.products(v[:, None])[0][:, 0]

    def jacobian(self) -> Tensor:
        if self.known_jacobian is None:
            self.known_jacobian = self.maps.products(None)[0]
        return self.known_jacobian

    def jacobian_of(self, rows: Tensor) -> Tensor:
        return self.jacobian()[rows]

    def attach(self, seeds: Tensor | None) -> Tensor:
        asked = _Asked(self.maps, seeds, products=True)
        self.value, products = _Attached.apply(asked, self.x, *self.tensors)
        return products

    def attach_value(self) -> Tensor:
        asked = _Asked(self.maps, None, products=False)
        value, _ = _Attached.apply(asked, self.x.detach(), *self.tensors)
        return value

    def moved(self, x: Tensor) -> Tape:
        return type(self)(self.perceptron, x, self.maps)

    def state(self) -> list[Tensor]:
        return [self.x.detach(), self.maps.result, *_hidden(self.maps)]

    @classmethod
    def restored(cls, net: Any, state: Sequence[Tensor]) -> Self:
        x, result, *hidden = state
        return cls(net, x, _maps(net.layers, x, result, hidden))


@dataclass(frozen=True)
class _Asked:
    """What a node of the graph is to give: the value, with products of the seeds or alone."""

    maps: Maps
    seeds: Tensor | None
    products: bool


class _Attached(torch.autograd.Function):
    """Value and products in the graph that `x` and the tensors of the perceptron belong to."""

    @staticmethod
    def forward(
        ctx: Any, asked: _Asked, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        maps, seeds = asked.maps, asked.seeds
        products, kept = maps.products(seeds, keep=True) if asked.products else (None, [])
        ctx.function, ctx.layers, ctx.kept = maps.layers.function, len(tensors) // 2, len(kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(seeds, x, *tensors, *kept, *_hidden(maps))
        return maps.result.clone(), products

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_products: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        n = ctx.layers
        if grad is None and grad_products is None:
            return (None,) * (2 + 2 * n)
        seeds, x, *saved = ctx.saved_tensors
        tensors, saved = saved[: 2 * n], saved[2 * n :]
        if torch.is_grad_enabled():
            weights, biases = tensors[:n], tensors[n:]
            again = _again(ctx.function, weights, biases, x, seeds, grad, grad_products)
            return None, *again
        layers = Layers(ctx.function, tensors[:n], tensors[n:])
        maps = _maps(layers, x, x, saved[ctx.kept :])
        parameters = any(ctx.needs_input_grad[2:])
        with torch.autocast(x.device.type, enabled=False):
            gradient = _Gradient(maps, parameters=parameters)
            gradient.run(seeds, saved[: ctx.kept], grad, grad_products)
        # Laid out like their parameters, as autograd's own are.
        weights = [w.contiguous() for w in gradient.weights]
        grads = (*weights, *gradient.biases) if parameters else [None] * (2 * n)
        return None, gradient.x, *grads


def _hidden(maps: Maps) -> list[Tensor]:
    """Maps of the hidden layers, as they are saved."""
    kept = maps.kept if maps.layers.function.keeps else []
    return [*maps.values[1:], *maps.slopes, *kept]


def _maps(layers: Layers, x: Tensor, result: Tensor, hidden: Sequence[Tensor]) -> Maps:
    """The maps that were saved."""
    n = len(layers.weights) - 1
    values, slopes = list(hidden[:n]), list(hidden[n : 2 * n])
    kept = list(hidden[2 * n :]) if layers.function.keeps else values
    return Maps(layers, [x.detach(), *values], slopes, kept, result)


class _Gradient:
    """The gradient of value and products, added up over parts of the batch."""

    def __init__(self, maps: Maps, *, parameters: bool) -> None:
        self.maps = maps
        self.parameters = parameters
        self.x = torch.empty_like(maps.values[0])
        self.weights = [_zeros(w) for w in maps.layers.weights if parameters]
        self.biases = [torch.zeros_like(b) for b in maps.layers.biases if parameters]

    def run(
        self,
        seeds: Tensor | None,
        products: Sequence[Tensor],
        grad: Tensor | None,
        grad_products: Tensor | None,
    ) -> None:
        count = 1 if grad_products is None else grad_products.shape[1]
        layers, like = self.maps.layers, self.x
        scratch = Scratch(layers, like, count, 3)
        for rows in layers.parts(like, count):
            bends: list[Tensor] = []
            if grad_products is not None:
                bends = self._up(rows, seeds, products, at(grad_products, rows), scratch)
            self._down(rows, None if grad is None else at(grad, rows), bends, scratch)

    def _up(
        self,
        rows: slice,
        seeds: Tensor | None,
        products: Sequence[Tensor],
        grad: Tensor,
        scratch: Scratch,
    ) -> list[Tensor]:
        """From the first layer to the last: weights, and the gradients of the slopes."""
        bends: list[Tensor] = []
        grad = grad.transpose(0, 1)
        count, size, _ = grad.shape
        weights = self.maps.layers.weights[:-1]
        for i, weight in enumerate(weights):
            below = _block(products[i], rows) if i < len(products) else self.maps.top(seeds, rows)
            slope = at(self.maps.slopes[i], rows)
            through, other = (scratch(slot, count, size, len(weight)) for slot in (i % 2, 2))
            flat = grad.flatten(0, 1)
            torch.mm(flat, weight.mT, out=through.flatten(0, 1))
            if self.parameters:
                torch.mul(below, slope, out=other)
                self._add(i, other.flatten(0, 1), flat)
            bends.append(torch.mul(below, through, out=other).sum(0))
            grad = through.mul_(slope)
        if self.parameters:
            if seeds is None:
                self.weights[-1] += grad.sum(1)
            else:
                self._add(-1, at(seeds, rows).transpose(0, 1).flatten(0, 1), grad.flatten(0, 1))
        return bends

    def _down(
        self, rows: slice, grad: Tensor | None, bends: list[Tensor], scratch: Scratch
    ) -> None:
        """From the last layer to the first, as in any net, with what the slopes add."""
        maps = self.maps
        weights = maps.layers.factors
        for i in range(len(weights) - 1, -1, -1):
            if i < len(weights) - 1:
                slope = at(maps.slopes[i], rows)
                if grad is not None:
                    grad = grad.mul_(slope)
                if bends:
                    kept = at(maps.kept[i], rows)
                    grad = maps.layers.function.bend(kept, slope, bends[i], grad)
            if grad is None:
                continue
            if self.parameters:
                self._add(i, grad, at(maps.values[i], rows))
                if self.biases[i].dim() == 1:
                    self.biases[i] += grad.sum(0)
                else:
                    self.biases[i][rows] += grad
            below = scratch(i % 2, len(grad), weights[i].shape[1]) if i else at(self.x, rows)
            grad = times(grad, weights[i], out=below)

    def _add(self, layer: int, left: Tensor, right: Tensor) -> None:
        self.weights[layer].addmm_(left.mT, right)


def _zeros(weight: Tensor) -> Tensor:
    """Zeros to which outer products are added: rows are the longer ones, as is faster."""
    height, width = weight.shape
    new = weight.new_zeros
    return new(width, height).mT if width < height else new(height, width)


def _again(
    function: Elementwise,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    x: Tensor,
    seeds: Tensor | None,
    grad: Tensor | None,
    grad_products: Tensor | None,
) -> list[Tensor | None]:
    """The gradient as a graph of its own, by torch's operations."""
    given = [x, *weights, *biases]
    # Gradients by views are parts of those of the tensors: hooks of these run on the whole alone.
    inputs = [t.view_as(t) if t.requires_grad else t for t in given]
    n = len(weights)
    outputs = _value_and_products(function, inputs[1 : 1 + n], inputs[1 + n :], inputs[0], seeds)
    wanted = [t for t in inputs if t.requires_grad]
    pairs = [(o, g) for o, g in zip(outputs, (grad, grad_products), strict=True) if g is not None]
    parts = torch.autograd.grad(
        [o for o, _ in pairs],
        wanted,
        [g for _, g in pairs],
        create_graph=True,
        allow_unused=True,
    )
    found = iter(parts)
    return [next(found) if t.requires_grad else None for t in inputs]


def _value_and_products(
    function: Elementwise,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    x: Tensor,
    seeds: Tensor | None,
) -> tuple[Tensor, Tensor]:
    slopes = []
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        h = torch.nn.functional.linear(x, weight) + bias
        x = function.value(h)
        slopes.append(function.slope(h)[:, None])
    value = torch.nn.functional.linear(x, weights[-1]) + biases[-1]
    products = weights[-1] if seeds is None else seeds @ weights[-1]
    for weight, slope in zip(weights[-2::-1], reversed(slopes), strict=True):
        products = (products * slope) @ weight
    return value, products


def _block(maps: Tensor, rows: slice) -> Tensor:
    """The part of products that `Maps.products` kept for these rows, `[k, rows, n]`.

    The rows have to be a part that it was filled by: layers, count and batch decide on these alone.
    """
    part = at(maps, rows)
    return part.view(part.shape[1], part.shape[0], part.shape[2])
