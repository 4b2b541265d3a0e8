"""Perceptrons with one elementwise function throughout, differentiated by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.fast.elementwise import DERIVATIVES
from impflow_zoo.lipschitz.bound_layers import BoundLayers
from impflow_zoo.numerics.bound import Linearization

_CACHED = 1 << 18  # entries of a feature map that are worked on at once on a CPU


class FastPerceptron(BoundLayers):
    """A perceptron that is evaluated in place and differentiated by hand.

    Autograd computes products with the Jacobian in some twenty passes over every feature map, each
    of which writes a new one. Here they take one matrix product and one or two passes per layer,
    over so few rows at a time that these stay in the cache.

    Arguments:
        parts: as in `BoundLayers`; the same function between all matrices, one of `DERIVATIVES`.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.function = DERIVATIVES[self.functions[0]]

    @torch.no_grad()
    def value(self, x: Tensor) -> Tensor:
        return _cat([net._evaluate(part) for net, part in self.parts(1, x)])

    def _evaluate(self, x: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = self.function.overwrite(x) if i else x
            x = torch.addmm(bias, x, weight.mT)
        return x

    def parts(self, count: int, *maps: Tensor) -> list[Any]:
        """Net and maps, cut so that `count` feature maps of a part stay in the cache of a CPU."""
        size = max(_CACHED // (count * max(max(weight.shape) for weight in self.weights)), 16)
        if len(maps[0]) <= size or maps[0].device.type != "cpu":
            return [(self, *maps)]
        nets = [self.rows(slice(i, i + size)) for i in range(0, len(maps[0]), size)]
        return list(zip(nets, *(whole.split(size) for whole in maps), strict=True))

    def linearize(self, x: Tensor, *, differentiable: bool = False) -> Linearization:
        """The value, with what products with its Jacobian need."""
        return super().linearize(x, differentiable=True) if differentiable else self.record(x)

    @torch.no_grad()
    def record(self, x: Tensor) -> Tape:
        """The same by hand."""
        *sizes, last = (len(weight) for weight in self.weights)
        maps = 3 if self.function.keeps else 2
        hidden = [x.new_empty(len(x), n) for _ in range(maps) for n in sizes]
        tape = Tape(self, x, x.new_empty(len(x), last), *hidden)
        for piece in tape.pieces(1):
            for i, slope in enumerate(piece.slopes):
                weight, bias = self.weights[i], piece.net.biases[i]
                torch.addmm(bias, piece.values[i], weight.mT, out=slope)
                self.function.record(slope, piece.values[i + 1], piece.kept[i])
            bias, weight = piece.net.biases[-1], self.weights[-1]
            torch.addmm(bias, piece.values[-1], weight.mT, out=piece.value)
        return tape


class Tape(Linearization):
    """A linearization whose products need no graph.

    One node enters the caller's graph: the value, with the requested products or alone. Until then
    `value` has no graph. `hidden` holds the values of all hidden layers, then `f'` of all layers,
    and, if the function `keeps` it, what the second derivative of all layers needs; `[B, n]` each.
    """

    net: FastPerceptron

    def __init__(self, net: FastPerceptron, x: Tensor, value: Tensor, *hidden: Tensor) -> None:
        super().__init__(net, x, value)
        n = len(net.weights) - 1
        self.hidden = hidden
        self.values = (x.detach(), *hidden[:n])
        self.slopes = hidden[n : 2 * n]
        self.kept = hidden[2 * n :] or hidden[:n]

    def pieces(self, count: int) -> list[Tape]:
        """The same for each of the `parts` of the batch."""
        parts = self.net.parts(count, self.x, self.value, *self.hidden)
        return [self] if len(parts) == 1 else [Tape(*part) for part in parts]

    @torch.no_grad()
    def products(self, seeds: Tensor | None, *, keep: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Products of `seeds`, `[B, k, d]`, with the Jacobian; without seeds the Jacobian itself.

        With `keep` the products up to each hidden layer but the last are returned as well, part by
        part of the batch, `[k, rows, n]` each: their gradient needs them. All `k` share the slopes.
        """
        results, maps = [], []
        pieces = self.pieces(len(self.net.weights[-1]) if seeds is None else seeds.shape[1])
        for piece, own in zip(pieces, _split(seeds, pieces), strict=True):
            product = piece.top(own)
            for i in range(len(piece.slopes) - 1, -1, -1):
                fresh = not keep and i < len(piece.slopes) - 1
                slope = piece.slopes[i]
                through = product.mul_(slope) if fresh else product * slope
                flat = through.flatten(0, 1) @ _by_columns(self.net.weights[i])
                product = flat.view(*through.shape[:2], flat.shape[1])
                maps += [product] if keep and i else []
            results.append(product.transpose(0, 1))
            del product, through, flat  # for the next part to take
        return _cat(results), maps

    def top(self, seeds: Tensor | None) -> Tensor:
        """Products with the last matrix, `[k, B, n]`; `[k, 1, n]` if seeds are the identity."""
        last = self.net.weights[-1]
        return last[:, None] if seeds is None else seeds.transpose(0, 1) @ last

    def vjp(self, v: Tensor, *, create_graph: bool = False) -> Tensor:
        if create_graph:
            raise NotImplementedError("only linearize(x, differentiable=True) can do this")
        return self.products(v[:, None])[0][:, 0]

    def jacobian_of(self, rows: Tensor | slice) -> Tensor:
        return self.products(None)[0][rows]

    def attach(self, seeds: Tensor | None) -> Tensor:
        self.value, products = _Attached.apply(
            self, seeds, self.products(seeds, keep=True), self.x, *self.net.tensors
        )
        return products

    def attach_value(self) -> Tensor:
        x = self.x.detach()
        value, _ = _Attached.apply(self, None, (None, []), x, *self.net.tensors)
        return value

    def moved(self, x: Tensor) -> Tape:
        return Tape(self.net, x, self.value, *self.hidden)

    def state(self) -> list[Tensor]:
        return [self.x.detach(), self.value, *self.hidden]


class _Attached(torch.autograd.Function):
    """Value and products in the graph that `x` and the tensors of the perceptron belong to."""

    @staticmethod
    def forward(
        ctx: Any,
        tape: Tape,
        seeds: Tensor | None,
        found: tuple[Tensor | None, list[Tensor]],
        x: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        products, maps = found
        ctx.kind, ctx.functions, ctx.maps = type(tape.net), tape.net.functions, len(maps)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(seeds, x, *tensors, *maps, *tape.hidden)
        return tape.value.detach(), products

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_products: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        n = len(ctx.functions) + 1
        if grad is None and grad_products is None:
            return (None,) * (4 + 2 * n)
        seeds, x, *saved = ctx.saved_tensors
        weights, biases, saved = saved[:n], saved[n : 2 * n], saved[2 * n :]
        if torch.is_grad_enabled():
            net = BoundLayers((), ctx.functions, weights, biases)
            return None, None, None, *_again(net, x, seeds, grad, grad_products)
        tape = Tape(ctx.kind((), ctx.functions, weights, biases), x, x, *saved[ctx.maps :])
        pieces = tape.pieces(1 if grad_products is None else grad_products.shape[1])
        below, found, frozen = n - 2, [], not any(ctx.needs_input_grad[4:])
        gradients = (_split(whole, pieces) for whole in (seeds, grad, grad_products))
        with torch.autocast(x.device.type, enabled=False):
            for i, (piece, *mine) in enumerate(zip(pieces, *gradients, strict=True)):
                maps = saved[i * below : (i + 1) * below] if ctx.maps else ()
                found.append(_gradient(piece, maps, *mine, frozen=frozen))
        by_row = [True, *[False] * n, *(bias.dim() == 2 for bias in biases)]
        totals = zip(by_row, zip(*found, strict=True), strict=True)
        return None, None, None, *(_joined(parts, by_row=by_row) for by_row, parts in totals)


def _gradient(
    tape: Tape,
    maps: Sequence[Tensor],
    seeds: Tensor | None,
    grad: Tensor | None,
    grad_products: Tensor | None,
    *,
    frozen: bool,
) -> list[Tensor | None]:
    """By the point and, if not frozen, weights and biases; `maps` is what `products` kept."""
    net, n = tape.net, len(tape.net.weights)
    weights: list[Tensor | None] = [None] * n
    biases = [*weights]
    bends = []  # gradients of the slopes
    if grad_products is not None:
        maps, up = [tape.top(seeds), *maps][::-1], grad_products.transpose(0, 1)
        for i, slope in enumerate(tape.slopes):
            flat = up.flatten(0, 1)
            through = (flat @ net.weights[i].mT).view(*up.shape[:2], slope.shape[1])
            if not frozen:
                weights[i] = _plus(None, (maps[i] * slope).flatten(0, 1), flat)
            bends.append((maps[i] * through).sum(0))
            up = through.mul_(slope)
        if seeds is None:
            weights[-1] = up.sum(1)
        elif not frozen:
            weights[-1] = _plus(None, seeds.transpose(0, 1).flatten(0, 1), up.flatten(0, 1))
        del up, flat, through  # memory that is still in the cache
    # From the last layer to the first, as in any net, with what the slopes add.
    for i in range(n - 1, -1, -1):
        if i < n - 1:
            slope = tape.slopes[i]
            grad = None if grad is None else grad.mul_(slope)
            grad = net.function.bend(tape.kept[i], slope, bends[i], grad) if bends else grad
        if grad is not None:
            if not frozen:
                weights[i] = _plus(weights[i], grad, tape.values[i])
                biases[i] = grad.sum(0) if net.biases[i].dim() == 1 else grad
            grad = grad @ _by_columns(net.weights[i])
    return [grad, *weights, *biases]


def _plus(known: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """`left^T right`, added to what is known."""
    if known is not None:
        return known.addmm_(left.mT, right)
    if right.shape[1] < left.shape[1]:  # the rows of a product are best the longer ones
        return (right.mT @ left).mT
    return left.mT @ right


def _joined(parts: Sequence[Tensor | None], *, by_row: bool) -> Tensor | None:
    """What parts of a batch come to: side by side or as a sum, laid out like a parameter."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    return _cat(found) if by_row else sum(found[1:], found[0]).contiguous()


def _split(x: Tensor | None, pieces: list[Tape]) -> Sequence[Tensor | None]:
    """The rows of each piece."""
    return [x] * len(pieces) if x is None or len(pieces) == 1 else x.split(len(pieces[0].x))


def _again(
    net: BoundLayers,
    x: Tensor,
    seeds: Tensor | None,
    grad: Tensor | None,
    grad_products: Tensor | None,
) -> list[Tensor | None]:
    """The gradient as a graph of its own, by torch's operations."""
    given = [x, *net.weights, *net.biases]
    # Gradients by views are parts of those of the tensors: hooks of these run on the whole alone.
    inputs = [t.view_as(t) if t.requires_grad else t for t in given]
    n = len(net.weights)
    point = BoundLayers((), net.functions, inputs[1 : 1 + n], inputs[1 + n :]).linearize(inputs[0])
    outputs, grads = ([point.value], [grad]) if grad is not None else ([], [])
    if grad_products is not None:
        outputs, grads = [*outputs, point.attach(seeds)], [*grads, grad_products]
    wanted = [t for t in inputs if t.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True, allow_unused=True))
    return [next(found) if t.requires_grad else None for t in inputs]


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_columns(weight: Tensor) -> Tensor:
    """A matrix laid out as a right factor: products with narrow ones are 2 to 5 times faster."""
    return weight.mT.contiguous().mT if weight.shape[1] < weight.shape[0] else weight
