"""One evaluation of a net whose graph serves every later product with its Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from impflow_zoo.numerics.chain import Chain, Chained
from impflow_zoo.numerics.graph import leaves, nodes, recording, wanting_inputs_only
from impflow_zoo.numerics.rows import Net, call, dot, uncompiled
from impflow_zoo.numerics.tape import record

__all__ = ["Linearization", "chain_of", "linearize"]

_CHUNK = 16  # Jacobian rows per vmapped product: bounds memory, large enough to fill a core


class Linearization:
    """A point `x`, the value `g(x)` and the graph between them.

    Arguments:
        x: where the net was evaluated, requiring grad, with shape `[B, ...]`.
        value: `g(x)`, of the same shape.
        if_unused: called where the graph does not lead from one to the other; raises if it should.
    """

    def __init__(
        self, x: Tensor, value: Tensor, if_unused: Callable[[], None] | None = None
    ) -> None:
        self.x = x
        self.value = value
        self._if_unused = if_unused
        self._jacobian: Tensor | None = None

    @property
    def features(self) -> int:
        """Number of entries in a row."""
        return self.x[:1].numel() if len(self.x) else self.x.flatten(1).shape[1]

    def vjp(self, v: Tensor, *, create_graph: bool = False) -> Tensor:
        """The products `J^T v`, row by row, with the shape of `x`."""
        if not self.value.requires_grad:
            return self._nothing()
        with wanting_inputs_only():
            (product,) = torch.autograd.grad(
                self.value,
                self.x,
                v.to(self.value.dtype),
                retain_graph=True,
                create_graph=create_graph,
                allow_unused=True,
            )
        return self._nothing() if product is None else product

    def _nothing(self) -> Tensor:
        """The products where the graph does not lead to the point, if that is as it should be."""
        if self._if_unused is not None:
            self._if_unused()
            self._if_unused = None
        return torch.zeros_like(self.x)

    def form(self, u: Tensor, v: Tensor) -> Tensor:
        """`u^T J v` of each row, `[B]`, in the graph of the net; `u` and `v` are constants."""
        return dot(self.vjp(u, create_graph=True), v)

    def leaves(self, *private: Tensor | None, computed: Sequence[Tensor] = ()) -> list[Tensor]:
        """The leaf tensors that gradients flow to, less the point itself and the private ones.

        `computed` ones count as leaves.
        """
        return leaves(self.value, private=(self.x, *private), computed=computed)

    def jacobian(self, *, create_graph: bool = False) -> Tensor:
        """Dense Jacobians `[B, d, d]`; entry `[b, i, j]` is `d g_i / d x_j` of row `b`.

        The result without a graph is kept, for the implicit derivative to reuse.
        """
        if self._jacobian is not None and not create_graph:
            return self._jacobian
        d = self.features
        basis = torch.eye(d, dtype=self.x.dtype, device=self.x.device)
        rows = [
            self._products(basis[i : i + _CHUNK], create_graph=create_graph)
            for i in range(0, d, _CHUNK)
        ]
        jacobian = torch.cat(rows).transpose(0, 1)
        self._jacobian = jacobian.detach()
        return jacobian

    def jacobian_of(self, rows: Tensor) -> Tensor:
        """The dense Jacobians of some rows, given by their indices, without a graph."""
        basis = torch.eye(self.features, dtype=self.x.dtype, device=self.x.device)
        parts = (self._products(part, create_graph=False) for part in basis.split(_CHUNK))
        return torch.cat([part[:, rows] for part in parts]).transpose(0, 1)

    def remember(self, jacobian: Tensor | None) -> Linearization:
        """Attach a Jacobian computed earlier at this point."""
        self._jacobian = jacobian
        return self

    @property
    def known_jacobian(self) -> Tensor | None:
        """The dense Jacobian, if somebody has paid for it already."""
        return self._jacobian

    def _has_python_nodes(self) -> bool:
        behind = nodes(self.value, until=[self.x])
        return any(isinstance(node, BackwardCFunction) for node in behind)

    def _products(self, basis: Tensor, *, create_graph: bool) -> Tensor:
        seeds = basis[:, None, :].expand(-1, len(self.x), -1).reshape(len(basis), *self.x.shape)
        # Under vmap, functions written in Python lose the graph of their backward without a word.
        batched = not (create_graph and self._has_python_nodes())
        if batched and len(basis) > 2 and self.value.requires_grad:
            try:
                with wanting_inputs_only():
                    (products,) = torch.autograd.grad(
                        self.value,
                        self.x,
                        seeds,
                        retain_graph=True,
                        create_graph=create_graph,
                        is_grads_batched=True,
                        allow_unused=True,
                    )
                if products is None:
                    products = self._nothing()
                return products.expand_as(seeds).flatten(2)
            except RuntimeError:
                pass  # a user's net may hold an operation without a batching rule: one by one
        return torch.stack([self.vjp(v, create_graph=create_graph).flatten(1) for v in seeds])


class _ChainLinearization(Linearization):
    """The same for a chain, whose products need no graph.

    What enters the caller's graph is one node, made when it is first asked for: the value with
    the Jacobian, or with one product, or alone.

    Arguments:
        x: where the net is evaluated, `[B, d]`.
        chain: the net.
        graph: whether the caller records gradients.
    """

    def __init__(self, x: Tensor, chain: Chain, *, graph: bool) -> None:
        self.x = x
        self._chain = chain
        self._if_unused = None
        self._tape = record(chain, x)
        self._value: Tensor | None = None if graph else self._tape.result
        self._jacobian = None

    @property
    def value(self) -> Tensor:  # type: ignore[override]
        if self._value is None:
            self._attach(None, value_only=True)
        assert self._value is not None
        return self._value

    @property
    def features(self) -> int:
        return self.x.shape[1]

    def vjp(self, v: Tensor, *, create_graph: bool = False) -> Tensor:
        if create_graph:
            return self._in_torch.vjp(v, create_graph=True)
        return self._tape.products(v[:, None])[0][:, 0]

    def form(self, u: Tensor, v: Tensor) -> Tensor:
        return dot(self._attach(u[:, None])[:, 0], v)

    def leaves(self, *private: Tensor | None, computed: Sequence[Tensor] = ()) -> list[Tensor]:
        ends = (*self._chain.weights, *self._chain.biases)
        return leaves(*ends, private=(self.x, *private), computed=computed)

    def jacobian(self, *, create_graph: bool = False) -> Tensor:
        if create_graph:
            jacobian = self._attach(None)
            self._jacobian = jacobian.detach()
            return jacobian
        if self._jacobian is None:
            self._jacobian = self._tape.products(None)[0]
        return self._jacobian

    def _attach(self, seeds: Tensor | None, *, value_only: bool = False) -> Tensor:
        with recording():
            self._value, products = self._tape.attach(self.x, seeds, value_only=value_only)
        return products

    @cached_property
    def _in_torch(self) -> Linearization:
        return Linearization(self.x, self._chain.differentiable(self.x, None)[0])


def chain_of(g: Net, x: Tensor, context: Tensor | None) -> Chain | None:
    """The chain that a net is at rows of the type of its weights, if it is one."""
    g = uncompiled(g)  # compiling gains nothing on a chain
    if isinstance(g, Chain):
        return g
    if not isinstance(g, Chained) or torch.is_autocast_enabled(x.device.type):
        return None
    chain = g.chain(x, context)
    if chain is None or any(t.dtype != x.dtype for t in (*chain.weights, *chain.biases)):
        return None
    return chain


def linearize(g: Net, x: Tensor, context: Tensor | None = None) -> Linearization:
    """Evaluate `g` at `x` and keep the graph, whatever the ambient gradient mode is.

    If gradients are recorded and `x` requires grad, the result is part of the caller's graph;
    else it hangs on a leaf of its own. The caller's tensors are left as they are.

    Arguments:
        g: a net, called as `g(x)` or `g(x, context)`.
        x: the points, with shape `[B, ...]`.
        context: one context per row, or None.

    Products with the Jacobian raise a `ValueError` where the net hides how it depends on `x`.
    """
    graph = torch.is_grad_enabled()
    attached = graph and x.requires_grad
    with recording():
        if x.is_inference():
            x = x.clone()
        if context is not None and context.is_inference():
            context = context.clone()
        point = x.view_as(x) if attached else x.detach().requires_grad_()
        chain = chain_of(g, point, context)
        if chain is not None:
            return _ChainLinearization(point, chain, graph=graph)
        # Under autocast a net answers in a narrower type; the mathematics goes on in that of x.
        value = call(g, point, context).to(x.dtype)
        hidden = partial(_check_constant, g, point.detach(), context)
        return Linearization(point, value, hidden)


@torch.no_grad()
def _check_constant(g: Net, x: Tensor, context: Tensor | None) -> None:
    """A net whose graph does not lead to its input may be constant, or random.

    Raises:
        ValueError: if it answers otherwise at other points: then its Jacobian is not known.
    """
    here, again, there = (call(g, point, context) for point in (x, x, 0.5 * x))
    if torch.equal(here, again) and not torch.equal(here, there):
        raise ValueError(
            "the net's answer depends on its input but its graph does not lead there, so that its "
            "Jacobian is not known: is there torch.no_grad, detach, numpy or an integer within?"
        )
