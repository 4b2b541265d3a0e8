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

    Autograd takes products with the Jacobian apart into some twenty passes over every feature map,
    each of which writes a new one. Here they are one matrix product and one or two passes per
    layer, over so few rows at a time that these stay in the cache.

    Arguments:
        parts: as in `BoundLayers`; the same function between all matrices, one of `DERIVATIVES`.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        weights, functions = self.weights, self.functions
        self.function = DERIVATIVES[functions[0]]
        self.width = max(max(weight.shape) for weight in weights)

    @torch.no_grad()
    def value(self, x: Tensor) -> Tensor:
        results = [self._evaluate(at(x, rows), rows) for rows in self.parts(x, 1)]
        return _cat(results)

    def _evaluate(self, x: Tensor, rows: slice) -> Tensor:
        for i, weight in enumerate(self.weights):
            x = self.function.overwrite(x) if i else x
            x = torch.addmm(self.bias(i, rows), x, weight.mT)
        return x

    def parts(self, x: Tensor, count: int) -> list[slice]:
        """The batch, cut so that `count` feature maps of a part stay in the cache of a CPU."""
        batch = max(len(x), 1)
        size = max(_CACHED // (count * self.width), 16) if x.device.type == "cpu" else batch
        return [slice(i, min(i + size, len(x))) for i in range(0, batch, size)]

    def bias(self, layer: int, rows: slice) -> Tensor:
        """The bias of a layer for some rows of the batch."""
        bias = self.biases[layer]
        return bias if bias.dim() == 1 else bias[rows]

    def linearize(self, x: Tensor, *, differentiable: bool = False) -> Linearization:
        """The value, with what products with its Jacobian need."""
        if differentiable:
            return super().linearize(x, differentiable=True)
        with torch.no_grad():
            return self.record(x)

    def record(self, x: Tensor) -> Tape:
        """Evaluate the net, and keep what products with its Jacobian need."""
        sizes = [len(weight) for weight in self.weights]
        values, slopes = ([x.new_empty(len(x), n) for n in sizes[:-1]] for _ in range(2))
        kept = [torch.empty_like(value) for value in values] if self.function.keeps else []
        result = x.new_empty(len(x), sizes[-1])
        for rows in self.parts(x, 1):
            value = at(x, rows)
            for i, weight in enumerate(self.weights[:-1]):
                h = torch.addmm(self.bias(i, rows), value, weight.mT, out=at(slopes[i], rows))
                value = at(values[i], rows)
                self.function.record(h, value, at((kept or values)[i], rows))
            torch.addmm(self.bias(-1, rows), value, self.weights[-1].mT, out=at(result, rows))
        return Tape(self, x, result, *values, *slopes, *kept)


class Tape(Linearization):
    """A linearization whose products need no graph.

    What enters the caller's graph is one node: the value with the products that are asked for in
    it, or alone. Until then `value` has no graph.

    Arguments:
        net: the perceptron.
        x: where it was evaluated, `[B, d]`.
        value: of the perceptron.
        hidden: of every hidden layer the value, of every one `f'`, and, where the function
            `keeps` it, of every one what the second derivative needs; `[B, n]` each.
    """

    net: FastPerceptron

    def __init__(self, net: FastPerceptron, x: Tensor, value: Tensor, *hidden: Tensor) -> None:
        super().__init__(net, x, value)
        n = len(net.weights) - 1
        self.hidden = hidden
        self.values = (x.detach(), *hidden[:n])
        self.slopes = hidden[n : 2 * n]
        self.kept = hidden[2 * n :] or hidden[:n]

    @torch.no_grad()
    def products(self, seeds: Tensor | None, *, keep: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Products of rows with the Jacobian, and what their gradient needs.

        Arguments:
            seeds: rows with shape `[B, k, d]`; None is the identity, and gives the Jacobian.
            keep: keep what the gradient needs; else memory is used again while it is warm.

        Returns:
            The products, `[B, k, d]`, and those up to each hidden layer but the last, of one part
            of the batch after the other, `[k, rows, n]` each: beside slopes, which all `k` share,
            rows are one run of numbers.
        """
        results, maps = [], []
        count = len(self.net.weights[-1]) if seeds is None else seeds.shape[1]
        factors = [_by_columns(weight) for weight in self.net.weights[:-1]]
        for rows in self.net.parts(self.x, count):
            product, more = self._part(factors, self.top(seeds, rows), rows, keep=keep)
            results.append(product.transpose(0, 1))
            maps += more
        return _cat(results), maps

    def _part(
        self, factors: Sequence[Tensor], product: Tensor, rows: slice, *, keep: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """The products of a part; what is not kept is freed here, for the next part to take."""
        maps = []
        for i in range(len(factors) - 1, -1, -1):
            slope, own = at(self.slopes[i], rows), not keep and i < len(factors) - 1
            through = product.mul_(slope) if own else product * slope
            flat = through.flatten(0, 1) @ factors[i]
            product = flat.view(*through.shape[:2], flat.shape[1])
            maps += [product] if keep and i else []
        return product, maps

    def top(self, seeds: Tensor | None, rows: slice) -> Tensor:
        """Products with the last matrix, `[k, rows, n]`; `[k, 1, n]` if seeds are the identity."""
        last = self.net.weights[-1]
        return last[:, None] if seeds is None else at(seeds, rows).transpose(0, 1) @ last

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
        gradient = _Gradient(tape, parameters=any(ctx.needs_input_grad[4:]))
        with torch.autocast(x.device.type, enabled=False):
            return None, None, None, *gradient(seeds, saved[: ctx.maps], grad, grad_products)


class _Gradient:
    """The gradient of value and products, added up over parts of the batch."""

    def __init__(self, tape: Tape, *, parameters: bool) -> None:
        self.tape, self.parameters = tape, parameters
        self.weights: list[Tensor | None] = [None] * len(tape.net.weights)
        self.biases: list[Tensor | None] = [None] * len(tape.net.weights)

    def __call__(
        self,
        seeds: Tensor | None,
        maps: Sequence[Tensor],
        grad: Tensor | None,
        grad_products: Tensor | None,
    ) -> list[Tensor | None]:
        """By the point, the weights and the biases.

        Arguments:
            seeds: what the products were taken of.
            maps: what `Tape.products` gave beside the products.
            grad: by the value.
            grad_products: by the products.
        """
        count = 1 if grad_products is None else grad_products.shape[1]
        below = len(self.weights) - 2
        points = []
        for i, rows in enumerate(self.tape.net.parts(self.tape.x, count)):
            bends: list[Tensor] = []
            if grad_products is not None:
                mine = [self.tape.top(seeds, rows), *maps[i * below : (i + 1) * below]]
                bends = self._up(rows, seeds, mine[::-1], at(grad_products, rows))
            points.append(self._down(rows, None if grad is None else at(grad, rows), bends))
        # Laid out like their parameters, as autograd's own are.
        weights = [None if w is None else w.contiguous() for w in self.weights]
        return [_cat(points), *weights, *self.biases]

    def _up(
        self, rows: slice, seeds: Tensor | None, maps: Sequence[Tensor], grad: Tensor
    ) -> list[Tensor]:
        """From the first layer to the last: weights, and the gradients of the slopes."""
        bends: list[Tensor] = []
        grad = grad.transpose(0, 1)
        for i, weight in enumerate(self.tape.net.weights[:-1]):
            slope, flat = at(self.tape.slopes[i], rows), grad.flatten(0, 1)
            through = (flat @ weight.mT).view(*grad.shape[:2], len(weight))
            if self.parameters:
                self._add(i, (maps[i] * slope).flatten(0, 1), flat)
            bends.append((maps[i] * through).sum(0))
            grad = through.mul_(slope)
        if self.parameters and seeds is not None:
            self._add(-1, at(seeds, rows).transpose(0, 1).flatten(0, 1), grad.flatten(0, 1))
        elif self.parameters:
            self.weights[-1] = _sum(self.weights[-1], grad.sum(1))
        return bends

    def _down(self, rows: slice, grad: Tensor | None, bends: list[Tensor]) -> Tensor:
        """From the last layer to the first, as in any net, with what the slopes add."""
        net, tape = self.tape.net, self.tape
        for i in range(len(net.weights) - 1, -1, -1):
            if i < len(tape.slopes):
                slope = at(tape.slopes[i], rows)
                grad = None if grad is None else grad.mul_(slope)
                if bends:
                    grad = net.function.bend(at(tape.kept[i], rows), slope, bends[i], grad)
            if grad is None:
                continue
            if self.parameters:
                self._add(i, grad, at(tape.values[i], rows))
                self._add_bias(i, grad, rows)
            grad = grad @ _by_columns(net.weights[i])
        assert grad is not None
        return grad

    def _add(self, layer: int, left: Tensor, right: Tensor) -> None:
        """Add `left^T right` to the gradient of a weight."""
        known = self.weights[layer]
        if known is not None:
            known.addmm_(left.mT, right)
        elif right.shape[1] < left.shape[1]:  # the rows of a product are best the longer ones
            self.weights[layer] = (right.mT @ left).mT
        else:
            self.weights[layer] = left.mT @ right

    def _add_bias(self, layer: int, grad: Tensor, rows: slice) -> None:
        bias, known = self.tape.net.biases[layer], self.biases[layer]
        if bias.dim() == 1:
            self.biases[layer] = _sum(known, grad.sum(0))
        else:
            self.biases[layer] = known = torch.zeros_like(bias) if known is None else known
            known[rows] += grad


def _sum(known: Tensor | None, more: Tensor) -> Tensor:
    return more if known is None else known.add_(more)


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


def at(x: Tensor, rows: slice) -> Tensor:
    """`x[rows]`, at no cost if that is all of it, as it is in small batches."""
    return x if rows.stop - rows.start == x.shape[0] else x[rows]


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_columns(weight: Tensor) -> Tensor:
    """A matrix as a factor on the right: products read narrow ones 2 to 5 times as fast so."""
    return weight.mT.contiguous().mT if weight.shape[1] < weight.shape[0] else weight
