"""Nets bound for one call of a block: what root finding, log-determinants and derivatives use.

A block binds each of its nets once per call, to the context of the call. The result, a `BoundNet`,
holds everything that does not depend on the rows: normalised or folded weights, and biases that
include the context. The solver evaluates it without a graph (`value`). `in_graph` and `linearize`
make its output a part of the caller's graph.

`ModuleNet` binds any net. To prepare weights only once per call, define a method `bind(context)`
in your own net that returns a `BoundNet`: write `in_graph`, a function of the rows in torch
operations, put the tensors that it uses into `tensors`, and define `rows` and `negated`. The
method is used if the same class defines `forward`: a sub-class that overrides `forward` alone is
called through `forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
from torch import Tensor

from impflow_zoo.numerics.compiled import as_written
from impflow_zoo.numerics.modes import recording

__all__ = ["BoundNet", "Linearization", "ModuleNet"]

Net = Callable[..., Tensor]


class BoundNet:
    """A net `g` at the weights and the context of one call, from `[B, ...]` to the same shape.

    Attributes:
        tensors: the tensors that gradients flow to, beside the rows.
        shape: shape of one row, for nets that take only this shape.
    """

    tensors: Sequence[Tensor] = ()
    shape: tuple[int, ...] | None = None

    def in_graph(self, x: Tensor) -> Tensor:
        """`g(x)` by torch's operations, in the graph of `x` and `tensors`."""
        raise NotImplementedError(f"{type(self).__name__} has to define its value")

    def rows(self, index: Tensor) -> BoundNet:
        """The net for some rows of the batch, given by their indices."""
        return self

    def negated(self) -> BoundNet:
        """The net `-g`."""
        raise NotImplementedError(f"{type(self).__name__} has to define its negative")

    @torch.no_grad()
    def value(self, x: Tensor) -> Tensor:
        """`g(x)` without a graph, in the type of `x`."""
        return self.in_graph(x).to(x.dtype)

    def linearize(self, x: Tensor, *, differentiable: bool = False) -> Linearization:
        """Value and products with the Jacobian at `x`, whatever the ambient gradient mode is.

        If gradients are recorded and `x` requires grad, the result is part of the caller's graph;
        else it belongs to a graph of its own. The caller's tensors are not changed.

        Arguments:
            x: the points, with shape `[B, ...]`.
            differentiable: let products be differentiated any number of times.
        """
        attached = torch.is_grad_enabled() and x.requires_grad
        with recording():
            point = x.view_as(x) if attached else x.detach().requires_grad_()
            # Under autocast a net answers in a narrower type; the mathematics goes on in that of x.
            return Linearization(self, point, self.in_graph(point).to(x.dtype))

    def products_only(self) -> AbstractContextManager[object]:
        """Entered around backward passes that want gradients by the point alone."""
        return nullcontext()

    def wants_gradients(self, x: Tensor) -> bool:
        """Whether gradients of `g(x)` flow to anything but `x`, and are recorded."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in self.tensors)


class Linearization:
    """A point `x`, the value `g(x)` and products with the Jacobian `J` of `g` there.

    This class computes products by autograd. A net with a faster way returns a sub-class from
    `BoundNet.linearize`.

    Arguments:
        net: the net.
        x: the point, requiring grad, with shape `[B, ...]`.
        value: `g(x)`, of the same shape, in the graph of `x`.
    """

    def __init__(self, net: BoundNet, x: Tensor, value: Tensor) -> None:
        self.net, self.x, self.value = net, x, value
        self.known_jacobian: Tensor | None = None  # dense, if somebody has paid for it already

    @property
    def features(self) -> int:
        """Number of entries in a row."""
        return self.x.shape[1:].numel()

    def vjp(self, v: Tensor, *, create_graph: bool = False) -> Tensor:
        """The products `J^T v`, row by row, with the shape of `x`.

        Raises:
            ValueError: if the net hides how it depends on `x`.
        """
        product = None
        if self.value.requires_grad:
            with self.net.products_only():
                (product,) = torch.autograd.grad(
                    self.value,
                    self.x,
                    v.to(self.value.dtype),
                    retain_graph=True,
                    create_graph=create_graph,
                    allow_unused=True,
                )
        if product is None:
            _check_constant(self.net, self.x.detach())
            return torch.zeros_like(self.x)
        return product

    def attach(self, seeds: Tensor | None) -> Tensor:
        """`seeds @ J`, `[B, k, d]`, in the graph of `x` and the net; None is the identity.

        `value` is a part of that graph from then on.
        """
        rows = self._identity() if seeds is None else seeds.unbind(1)
        return torch.stack(
            [self.vjp(v.reshape(self.x.shape), create_graph=True).flatten(1) for v in rows], dim=1
        )

    def attach_value(self) -> Tensor:
        """`value`, in the graph of the net."""
        return self.value

    def moved(self, x: Tensor) -> Linearization:
        """The linearization at a tensor of the same values, in the graph of that tensor."""
        return self.net.linearize(x)

    def state(self) -> list[Tensor]:
        """Tensors from which, with the net, the object is made again: autograd saves them."""
        return [self.x, self.value]

    def jacobian(self) -> Tensor:
        """Dense Jacobians `[B, d, d]` without a graph; `[b, i, j]` is `d g_i / d x_j` of row `b`.

        The result is kept, for the implicit derivative to reuse.
        """
        if self.known_jacobian is None:
            self.known_jacobian = self.jacobian_of(slice(None))
        return self.known_jacobian

    def jacobian_of(self, rows: Tensor | slice) -> Tensor:
        """The dense Jacobians of some rows, given by their indices, without a graph."""
        products = [self.vjp(v.reshape(self.x.shape)).flatten(1)[rows] for v in self._identity()]
        return torch.stack(products, dim=1)

    def _identity(self) -> Sequence[Tensor]:
        """The unit vectors, each for all rows of the batch, `[B, d]`."""
        identity = torch.eye(self.features, dtype=self.x.dtype, device=self.x.device)
        return [v.expand(len(self.x), -1) for v in identity]


def _check_constant(net: BoundNet, x: Tensor) -> None:
    """A net whose graph does not lead to its input may be constant, or random.

    Raises:
        ValueError: if it answers otherwise at other points: then its Jacobian is not known.
    """
    here, again, there = (net.value(point) for point in (x, x, 0.5 * x))
    if torch.equal(here, again) and not torch.equal(here, there):
        raise ValueError(
            "the net's output depends on its input, but its graph does not lead to the input: its "
            "Jacobian is unknown. Does the net use torch.no_grad, detach, numpy or integers?"
        )


class ModuleNet(BoundNet):
    """Any function or module, called as `net(x)`, or as `net(x, context)` if there is a context.

    Layers of bounded norm within it normalise their weights in every evaluation. Code compiled by
    `torch.compile` runs only where no gradient is recorded: it has no second derivatives, which
    gradients of log-determinants need.

    Arguments:
        net: the function, with or without `parameters()`.
        context: one context per row, or None.
        sign: 1, or -1 for the net `-g`.
    """

    def __init__(self, net: Net, context: Tensor | None = None, sign: int = 1) -> None:
        self.net, self.context, self.sign = net, context, sign
        own = tuple(getattr(net, "parameters", tuple)())
        self.tensors = own if context is None else (*own, context)

    def in_graph(self, x: Tensor) -> Tensor:
        """`g(x)`; the net is given copies, as it may work in place.

        Raises:
            ValueError: if the net does not answer with a tensor of the shape of its input.
        """
        inputs = [x] if self.context is None else [x, self.context]
        net = self._written if torch.is_grad_enabled() else self.net
        value = net(*(t.clone() for t in inputs))
        if not isinstance(value, Tensor):
            raise ValueError(f"the net returns a {type(value).__name__}: one tensor is needed")
        if value.shape != x.shape:
            raise ValueError(
                f"the net maps shape {tuple(x.shape)} to {tuple(value.shape)}; "
                "a residual map needs a net that keeps the shape of its input"
            )
        return value if self.sign == 1 else -value

    @cached_property
    def _written(self) -> Net:
        """The net without compiled code."""
        net: Net = as_written(self.net)
        return net

    def rows(self, index: Tensor) -> ModuleNet:
        if self.context is None:
            return self
        return ModuleNet(self.net, self.context[index], self.sign)

    def negated(self) -> ModuleNet:
        return ModuleNet(self.net, self.context, -self.sign)

    def wants_gradients(self, x: Tensor) -> bool:
        """As for other nets; an evaluation tells where no parameter requires grad."""
        if not torch.is_grad_enabled() or super().wants_gradients(x):
            return torch.is_grad_enabled()
        return self.in_graph(x.detach()).requires_grad
