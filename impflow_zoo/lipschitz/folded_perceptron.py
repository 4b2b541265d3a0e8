"""Perceptrons with one elementwise function throughout, differentiated by hand.

Let `h_i = W_i y_(i-1) + b_i`, `y_i = f(h_i)` and `y_0 = x`, with the value `W_n y_(n-1) + b_n`, and
`D_i = diag(f'(h_i))`. A row `v` has the products, from the last layer to the first,

    p_n = v^T W_n,    p_i = p_(i+1) D_i W_i,    v^T J = p_1

For the gradient of `v^T J s` something comes up from the first layer to the last:

    q_1 = W_1 s,    q_i = W_i D_(i-1) q_(i-1)

By `D_i` the gradient is `p_(i+1) q_i`, entry by entry: it goes on to `h_i` through `f''(h_i)`, and
from there down to everything below, together with the gradient of the value. By `W_i` it is the
outer product of `p_(i+1) D_i` and `D_(i-1) q_(i-1)`, plus what comes through `h_i`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.lipschitz.derivatives import DERIVATIVES, in_place
from impflow_zoo.lipschitz.folded_layers import FoldedLayers
from impflow_zoo.numerics.folded import Point

__all__ = ["FoldedPerceptron"]

_CACHED = 1 << 18  # entries of a feature map that are worked on at once on a CPU


class FoldedPerceptron(FoldedLayers):
    """A perceptron that is evaluated in place and differentiated by hand.

    Autograd computes products with the Jacobian in some twenty passes over every feature map, each
    of which writes a new one. Here they take one matrix product and one or two passes per layer,
    over so few rows at a time that these stay in the cache.

    Arguments:
        parts: as in `FoldedLayers`; the same function between all matrices, one of `DERIVATIVES`.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.function = in_place(self.functions[0])

    @classmethod
    def of(cls, plain: FoldedLayers) -> FoldedLayers:
        """This form of a net, or the net itself if it has several functions or an unknown one.

        The form is made once and kept with the net. Each call gets a copy of the object, so that
        its `right_factors`, which are further copies of weights, are not kept.
        """
        if plain.by_hand is None:
            functions, weights, biases = [*plain.functions], [*plain.weights], [*plain.biases]
            if plain.first is not None:  # becomes a layer
                function, before = plain.first
                like, size = weights[0], weights[0].shape[1]
                scale = torch.as_tensor(before, dtype=like.dtype, device=like.device)
                functions.insert(0, function)
                weights.insert(0, scale.expand(size).diag())
                biases.insert(0, like.new_zeros(size))
            if not any({*functions} == {f} for f in DERIVATIVES):
                return plain
            plain.by_hand = cls(plain.shape, functions, weights, biases)
        return copy.copy(plain.by_hand)

    @cached_property
    def right_factors(self) -> list[Tensor]:
        """The weights without a graph, narrow ones by columns: that is 2 to 5 times faster."""
        weights = [weight.detach() for weight in self.weights]
        return [w.mT.contiguous().mT if w.shape[1] < w.shape[0] else w for w in weights]

    @torch.no_grad()
    def value(self, x: Tensor) -> Tensor:
        return _cat([net._evaluate(rows) for net, rows in self.pieces(1, x)])

    def _evaluate(self, x: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = self.function.overwrite(x) if i else x
            x = torch.addmm(bias, x, weight.mT)
        return x

    def pieces(self, count: int, *maps: Tensor) -> list[Any]:
        """Net and maps, cut so that `count` feature maps of a piece stay in the cache of a CPU."""
        size = max(_CACHED // (count * max(max(weight.shape) for weight in self.weights)), 16)
        if len(maps[0]) <= size or maps[0].device.type != "cpu":
            return [(self, *maps)]
        nets = [self.rows(slice(i, i + size)) for i in range(0, len(maps[0]), size)]
        return list(zip(nets, *(whole.split(size) for whole in maps), strict=True))

    @torch.no_grad()
    def linearize(self, x: Tensor) -> Point:
        x = x.detach()
        *sizes, last = (len(weight) for weight in self.weights)
        count = 3 if self.function.keeps else 2
        hidden = [x.new_empty(len(x), n) for _ in range(count) for n in sizes]
        point = PerceptronPoint(self, x, x.new_empty(len(x), last), *hidden)
        for piece in point.pieces(1):
            for i, slope in enumerate(piece.slopes):
                weight, bias = self.weights[i], piece.net.biases[i]
                torch.addmm(bias, piece.values[i], weight.mT, out=slope)
                self.function.record(slope, piece.values[i + 1], piece.kept[i])
            bias, weight = piece.net.biases[-1], self.weights[-1]
            torch.addmm(bias, piece.values[-1], weight.mT, out=piece.value)
        return point

    def attach(self, x: Tensor, seeds: Tensor | None, point: Point) -> tuple[Tensor, Tensor]:
        assert isinstance(point, PerceptronPoint)
        maps: list[Tensor] = []
        products = x.new_empty(len(x), 0, point.features)
        if seeds is not None:
            products, maps = point.products(seeds, keep=True)
        value, products = _Attached.apply(
            point, seeds, products, maps, x, *self.weights, *self.biases
        )
        return value, products


class PerceptronPoint(Point):
    """What products and their gradients need, from one evaluation.

    Arguments:
        net: the net.
        x: the rows, `[B, d]`.
        value: `g(x)`.
        hidden: the values of all hidden layers, then `f'` of all layers, and, if the function
            `keeps` it, what the second derivative of all layers needs; `[B, n]` each.
    """

    def __init__(self, net: FoldedPerceptron, x: Tensor, value: Tensor, *hidden: Tensor) -> None:
        self.net, self.x, self.value, self.hidden = net, x, value, hidden
        n = len(net.weights) - 1
        self.values = (x, *hidden[:n])
        self.slopes = hidden[n : 2 * n]
        self.kept = hidden[2 * n :] or hidden[:n]

    def pieces(self, count: int) -> list[PerceptronPoint]:
        """The same for each of the `pieces` of the batch."""
        pieces = self.net.pieces(count, self.x, self.value, *self.hidden)
        return [self] if len(pieces) == 1 else [PerceptronPoint(*piece) for piece in pieces]

    @torch.no_grad()
    def products(self, seeds: Tensor, *, keep: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Products of `seeds`, `[B, k, d]` or `[1, k, d]`, with the Jacobian: `v^T J` above.

        With `keep` the `p_i` of each hidden layer but the last are returned as well, piece by piece
        of the batch, `[k, rows, n]` each: their gradient needs them. All `k` share the slopes.
        """
        results, maps = [], []
        pieces = self.pieces(seeds.shape[1])
        for piece, own in zip(pieces, _split(seeds, pieces), strict=True):
            assert own is not None
            product = piece.top(own)
            for i in range(len(piece.slopes) - 1, -1, -1):
                fresh = not keep and i < len(piece.slopes) - 1
                slope = piece.slopes[i]
                through = product.mul_(slope) if fresh else product * slope
                flat = through.flatten(0, 1) @ piece.net.right_factors[i]
                product = flat.view(*through.shape[:2], flat.shape[1])
                maps += [product] if keep and i else []
            results.append(product.transpose(0, 1))
            del product, through, flat  # for the next piece to take
        return _cat(results), maps

    def top(self, seeds: Tensor) -> Tensor:
        """Products with the last matrix, `[k, B, n]`, or `[k, 1, n]` of seeds for all rows."""
        return seeds.transpose(0, 1) @ self.net.weights[-1]

    def vjp(self, v: Tensor) -> Tensor:
        return self.products(v[:, None])[0][:, 0]

    def jacobian_of(self, rows: Tensor | slice) -> Tensor:
        return self.products(self.unit_vectors())[0][rows]


class _Attached(torch.autograd.Function):
    """Value and products in the graph that `x` and the tensors of the perceptron belong to."""

    @staticmethod
    def forward(
        ctx: Any,
        point: PerceptronPoint,
        seeds: Tensor | None,
        products: Tensor,
        maps: list[Tensor],
        x: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.kind, ctx.functions, ctx.maps = type(point.net), point.net.functions, len(maps)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(seeds, x, *tensors, *maps, *point.hidden)
        return point.value.detach(), products

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_products: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        n = len(ctx.functions) + 1
        if grad is None and grad_products is None:
            return (None,) * (5 + 2 * n)
        seeds, x, *saved = ctx.saved_tensors
        grad_products = None if seeds is None else grad_products
        weights, biases, saved = saved[:n], saved[n : 2 * n], saved[2 * n :]
        if torch.is_grad_enabled():
            net = FoldedLayers((), ctx.functions, weights, biases)
            return None, None, None, None, *_again(net, x, seeds, grad, grad_products)
        net = ctx.kind((), ctx.functions, weights, biases)
        point = PerceptronPoint(net, x, x, *saved[ctx.maps :])
        pieces = point.pieces(1 if grad_products is None else grad_products.shape[1])
        below, parts, frozen = n - 2, [], not any(ctx.needs_input_grad[5:])
        gradients = (_split(whole, pieces) for whole in (seeds, grad, grad_products))
        with torch.autocast(x.device.type, enabled=False):
            for i, (piece, *own) in enumerate(zip(pieces, *gradients, strict=True)):
                maps = saved[i * below : (i + 1) * below] if ctx.maps else ()
                parts.append(_gradient(piece, maps, *own, frozen=frozen))
        by_row = [True, *[False] * n, *(bias.dim() == 2 for bias in biases)]
        totals = zip(zip(*parts, strict=True), by_row, strict=True)
        return None, None, None, None, *(_joined(part, by_row=rows) for part, rows in totals)


def _gradient(
    point: PerceptronPoint,
    maps: Sequence[Tensor],
    seeds: Tensor | None,
    grad: Tensor | None,
    grad_products: Tensor | None,
    *,
    frozen: bool,
) -> list[Tensor | None]:
    """By the point and, if not frozen, weights and biases; `maps` is what `products` kept."""
    net, n = point.net, len(point.net.weights)
    weights: list[Tensor | None] = [None] * n
    biases = [*weights]
    bends = []  # gradients of the slopes
    if grad_products is not None:
        assert seeds is not None
        # As layers are counted from 0, `p[i]` is `p_(i+2)` above, `q` is `q_(i+1)`, and `up` is
        # `D_i q_i`.
        p, up = [point.top(seeds), *maps][::-1], grad_products.transpose(0, 1)
        for i, slope in enumerate(point.slopes):
            flat = up.flatten(0, 1)
            q = (flat @ net.weights[i].mT).view(*up.shape[:2], slope.shape[1])
            if not frozen:
                weights[i] = _plus(None, (p[i] * slope).flatten(0, 1), flat)
            bends.append((p[i] * q).sum(0))
            up = q.mul_(slope)
        if not frozen:
            up = up.sum(1, keepdim=True) if len(seeds) == 1 else up
            weights[-1] = _plus(None, seeds.transpose(0, 1).flatten(0, 1), up.flatten(0, 1))
        del up, flat, q  # memory that is still in the cache
    # From the last layer to the first, as in any net, with what the slopes add.
    for i in range(n - 1, -1, -1):
        if i < n - 1:
            slope = point.slopes[i]
            grad = None if grad is None else grad.mul_(slope)
            grad = net.function.bend(point.kept[i], slope, bends[i], grad) if bends else grad
        if grad is not None:
            if not frozen:
                weights[i] = _plus(weights[i], grad, point.values[i])
                biases[i] = grad.sum(0) if net.biases[i].dim() == 1 else grad
            grad = grad @ net.right_factors[i]
    return [grad, *weights, *biases]


def _plus(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """`left^T right`, added to a total if there is one."""
    if total is not None:
        return total.addmm_(left.mT, right)
    if right.shape[1] < left.shape[1]:  # the rows of a product are best the longer ones
        return (right.mT @ left).mT
    return left.mT @ right


def _joined(parts: Sequence[Tensor | None], *, by_row: bool) -> Tensor | None:
    """What pieces of a batch come to: side by side or as a sum, laid out like a parameter."""
    tensors = [part for part in parts if part is not None]
    if not tensors:
        return None
    return _cat(tensors) if by_row else sum(tensors[1:], tensors[0]).contiguous()


def _split(x: Tensor | None, pieces: list[PerceptronPoint]) -> Sequence[Tensor | None]:
    """The rows of each piece; what all rows share goes to each."""
    size = len(pieces[0].x)
    return [x] * len(pieces) if x is None or len(x) < 2 or len(pieces) == 1 else x.split(size)


def _again(
    net: FoldedLayers,
    x: Tensor,
    seeds: Tensor | None,
    grad: Tensor | None,
    grad_products: Tensor | None,
) -> list[Tensor | None]:
    """The gradient as a graph of its own, by torch's operations."""
    tensors = [x, *net.weights, *net.biases]
    # Gradients by views are parts of those of the tensors: hooks of these run on the whole alone.
    inputs = [t.view_as(t) if t.requires_grad else t for t in tensors]
    n = len(net.weights)
    plain = FoldedLayers((), net.functions, inputs[1 : 1 + n], inputs[1 + n :])
    answers = plain.attach(inputs[0], seeds, plain.linearize(inputs[0]))
    pairs = [(t, g) for t, g in zip(answers, (grad, grad_products), strict=True) if g is not None]
    outputs, grads = zip(*pairs, strict=True)
    wanted = [t for t in inputs if t.requires_grad]
    parts = torch.autograd.grad(outputs, wanted, grads, create_graph=True, allow_unused=True)
    gradients = iter(parts)
    return [next(gradients) if t.requires_grad else None for t in inputs]


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
