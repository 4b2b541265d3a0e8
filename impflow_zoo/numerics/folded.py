"""Folded nets: a net at the weights and the context of one call, and what it is near its rows.

A block folds each of its nets once per call, at the context of the call. The result, a `FoldedNet`,
holds everything that does not depend on the rows: weights with their norms divided out, biases that
include the context. It answers four questions:

    value(x)                    g(x), without a graph: what searches for roots ask
    rows(i)                     the net of some rows, with their contexts
    linearize(x)                a `Point`: g(x) and products with its Jacobian, without a graph
    attach(x, seeds, point)     g(x) and some of these products, in the graph of the caller

To give a net of your own a folded form, define a method `fold(context)` that returns a `FoldedNet`.
Write its `forward`, in torch operations, list the tensors that it uses in `tensors`, and define
`rows` if it holds contexts. Everything else follows, by autograd. `fold` is used if the class that
defines it defines `forward` too: a sub-class that overrides `forward` alone is called through it.
Nets without `fold` are called as they are (`FoldedModule`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.numerics.compiled import as_written, unwrapped
from impflow_zoo.numerics.modes import grad_mode, is_compiling, is_plain

__all__ = [
    "FoldedModule",
    "FoldedNet",
    "Negated",
    "Point",
    "Pullback",
    "TracedPoint",
    "fold",
    "pulled_back",
]

Net = Callable[..., Tensor]
Pullback = Callable[[Tensor], Tensor]  # `v -> J^T v`


class Point(ABC):
    """Rows `x`, the value `g(x)` and products with the Jacobian `J` there, without a graph.

    Attributes:
        x: the rows, with shape `[B, ...]`.
        value: `g(x)`, of the same shape.
        known_jacobian: dense Jacobians `[B, d, d]`, once somebody has paid for them. The node of a
            root holds its point, and reads them in the backward pass.
    """

    x: Tensor
    value: Tensor
    known_jacobian: Tensor | None = None

    @abstractmethod
    def vjp(self, v: Tensor) -> Tensor:
        """The products `J^T v`, row by row.

        Arguments:
            v: vectors, with the shape of `x`.

        Returns:
            The products, with the shape of `x`.

        Raises:
            ValueError: if the net hides how it depends on `x`.
        """

    @property
    def features(self) -> int:
        """Number of entries in a row."""
        return self.x.shape[1:].numel()

    def unit_vectors(self) -> Tensor:
        """Seeds whose products are the Jacobian, `[1, d, d]`: the same for all rows."""
        return torch.eye(self.features, dtype=self.x.dtype, device=self.x.device)[None]

    def jacobian(self) -> Tensor:
        """Dense Jacobians `[B, d, d]`; `[b, i, j]` is `d g_i / d x_j` of row `b`."""
        if self.known_jacobian is None:
            self.known_jacobian = self.jacobian_of(slice(None))
        return self.known_jacobian

    def jacobian_of(self, rows: Tensor | slice) -> Tensor:
        """The dense Jacobians of some rows.

        Arguments:
            rows: numbers of `n` rows, int64 with shape `[n]`, or a slice.

        Returns:
            The Jacobians, with shape `[n, d, d]`.
        """
        seeds = [v.expand(len(self.x), -1).view(self.x.shape) for v in self.unit_vectors()[0]]
        return torch.stack([self.vjp(v).flatten(1)[rows] for v in seeds], dim=1)

    def restored(self, x: Tensor) -> Point:
        """The point in a backward pass.

        Arguments:
            x: the rows as autograd has saved them, with shape `[B, ...]`.
        """
        return self


class FoldedNet(ABC):
    """A net `g` at the weights and the context of one call, from `[B, ...]` to the same shape.

    Attributes:
        tensors: the tensors that gradients flow to, beside the rows.
        shape: shape of one row, for nets that take only this shape.
    """

    tensors: Sequence[Tensor] = ()
    shape: tuple[int, ...] | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """`g(x)` by torch's operations, in the graph of `x` and `tensors`, to any order.

        Arguments:
            x: the rows, with shape `[B, ...]`.

        Returns:
            `g(x)` with the shape of `x`.

        Raises:
            ValueError: in `FoldedModule`, if the net does not keep the shape of its input. Other
                errors are those of torch.
        """

    def rows(self, index: Tensor | slice) -> FoldedNet:
        """The net for some rows of the batch: those that hold contexts select them.

        Arguments:
            index: numbers of `n` rows, int64 with shape `[n]`, or a slice.

        Returns:
            A net of rows `[n, ...]`.
        """
        return self

    @torch.no_grad()
    def value(self, x: Tensor) -> Tensor:
        """`g(x)` without a graph, with the shape and type of `x`.

        Arguments:
            x: the rows, with shape `[B, ...]`.

        Raises:
            ValueError: as `forward`.
        """
        return self.forward(x).to(x.dtype)

    def linearize(self, x: Tensor) -> Point:
        """Value and products with the Jacobian at `x`, whatever the ambient gradient mode is.

        The caller's tensors are not changed, and neither value nor products are in a graph.

        Arguments:
            x: the rows, with shape `[B, ...]`.

        Returns:
            A `Point`. Its `vjp` raises `ValueError` if the net hides how it depends on `x`.

        Raises:
            ValueError: as `forward`.
        """
        return TracedPoint(self, x)

    def attach(self, x: Tensor, seeds: Tensor | None, point: Point) -> tuple[Tensor, Tensor]:
        """Value and products in the graph of `x` and the net; they can be differentiated again.

        Arguments:
            x: the rows, with shape `[B, ...]`.
            seeds: rows `v` of the products `v^T J`, with shape `[B, k, d]`, or `[1, k, d]` if all
                rows have the same; None for no products.
            point: `linearize(x)`, or that of another tensor with the same values.

        Returns:
            `g(x)` with the shape of `x`, and the products with shape `[B, k, d]`; `d` is the number
            of entries in a row.

        Raises:
            ValueError: as `forward`, and if the net hides how it depends on `x`.
        """
        if not isinstance(point, TracedPoint) or point.x is not x:  # its graph starts elsewhere
            point = TracedPoint(self, x)
        return point.attached(seeds)

    def recorded(self, x: Tensor) -> Point:
        """A point whose value and products are in the caller's graph, to any order.

        Arguments:
            x: the rows, with shape `[B, ...]`.

        Raises:
            ValueError: as `forward`.
        """
        return TracedPoint(self, x, recorded=True)

    def trace(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """`g(x)` and `v -> J^T v`; products are in the graph if gradients are recorded then.

        Arguments:
            x: the rows, with shape `[B, ...]`, requiring grad; gradients are recorded. Where every
                operation has to be torch's own, there is nothing to require.

        Returns:
            `g(x)` with the shape of `x`, and a function of vectors `v` of this shape.

        Raises:
            ValueError: as `forward`.
        """
        if is_plain():
            return _transformed(self, x)
        # Under autocast a net answers in a narrower type; the mathematics goes on in that of x.
        value = self.forward(x).to(x.dtype)
        return value, partial(pulled_back, self.value, x, value)

    def requires_grad(self, x: Tensor) -> bool:
        """Whether gradients of `g(x)` are recorded, and flow to anything but `x`.

        Within transforms and compiled code nobody can tell, so they may.

        Arguments:
            x: the rows, with shape `[B, ...]`.
        """
        if is_plain():
            return True
        return torch.is_grad_enabled() and any(t.requires_grad for t in self.tensors)


class TracedPoint(Point):
    """A point on the graph that one evaluation of the net leaves.

    The graph is the net's own, and starts at `x`: if gradients are recorded and `x` requires grad,
    it continues the caller's, which `attached` makes use of.

    Arguments:
        net: the net.
        x: the rows.
        recorded: let value and products be in this graph.

    Raises:
        ValueError: in `vjp`, if the net hides how it depends on `x`.
    """

    def __init__(self, net: FoldedNet, x: Tensor, *, recorded: bool = False) -> None:
        self.net, self.x, self._recorded = net, x, recorded
        attached = torch.is_grad_enabled() and x.requires_grad
        with grad_mode(enabled=True):
            inputs = x.view_as(x)
            if not (attached or is_plain()):
                inputs = x.detach().requires_grad_()
            self._output, self._pullback = net.trace(inputs)
        self.value = self._output if recorded else self._output.detach()

    def vjp(self, v: Tensor) -> Tensor:
        with grad_mode(enabled=self._recorded):
            return self._pullback(v)

    def attached(self, seeds: Tensor | None) -> tuple[Tensor, Tensor]:
        """What `FoldedNet.attach` returns, at `x`."""
        count = len(self.x)
        if seeds is None:
            return self._output, self._output.new_empty(count, 0, self.features)
        rows = [v.expand(count, -1).reshape(self.x.shape) for v in seeds.unbind(1)]
        with grad_mode(enabled=True):
            products = torch.stack([self._pullback(v).flatten(1) for v in rows], dim=1)
        return self._output, products

    def restored(self, x: Tensor) -> Point:
        # torch.utils.checkpoint and save_on_cpu hand out new tensors, and would make them anew for
        # every product with the graph: then one more evaluation costs less.
        if x is self.x:
            return self
        point = self.net.linearize(x)
        point.known_jacobian = self.known_jacobian
        return point


def _transformed(net: FoldedNet, x: Tensor) -> tuple[Tensor, Pullback]:
    """What `FoldedNet.trace` returns, by a transform of `torch.func` as those around it."""
    answer: Any = torch.func.vjp(lambda x: net.forward(x).to(x.dtype), x)
    value, pullback = answer
    return value, lambda v: pullback(v)[0]


def pulled_back(
    function: Callable[[Tensor], Tensor], x: Tensor, value: Tensor, v: Tensor
) -> Tensor:
    """`J^T v` by autograd, in the graph if gradients are recorded.

    Arguments:
        function: for a message, if the graph does not lead to `x`.
        x: where the graph of the value starts.
        value: of the function at `x`.
        v: of the same shape.

    Raises:
        ValueError: if the function hides how it depends on `x`.
    """
    product = None
    if value.requires_grad:
        create = torch.is_grad_enabled()
        (product,) = torch.autograd.grad(
            value, x, v, retain_graph=True, create_graph=create, allow_unused=True
        )
    if product is None:
        _check_constant(function, x.detach())
        return torch.zeros_like(x)
    return product


@torch.no_grad()
def _check_constant(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """A function whose graph does not lead to its input may be constant, or random.

    Raises:
        ValueError: if it answers otherwise at other points: then its Jacobian is not known.
    """
    here, again, there = (function(point) for point in (x, x, 0.5 * x))
    if torch.equal(here, again) and not torch.equal(here, there):
        raise ValueError(
            "the net's output depends on its input, but its graph does not lead to the input: its "
            "Jacobian is unknown. Does the net use torch.no_grad, detach, numpy or integers?"
        )


class FoldedModule(FoldedNet):
    """Any function or module, called as `net(x)`, or as `net(x, context)` if there is a context.

    Layers of bounded norm within it normalise their weights in every evaluation. Code compiled by
    `torch.compile` runs only where no gradient is recorded: it has no second derivatives, which
    gradients of log-determinants need.

    Arguments:
        net: the function, with or without `parameters()`.
        context: one context per row, or None.
    """

    def __init__(self, net: Net, context: Tensor | None = None) -> None:
        self.net, self.context = net, context
        own = tuple(getattr(net, "parameters", tuple)())
        self.tensors = own if context is None else (*own, context)

    def forward(self, x: Tensor) -> Tensor:
        """`g(x)`; the net is given copies, as it may work in place.

        Raises:
            ValueError: if the net does not answer with a tensor of the shape of its input.
        """
        inputs = [x] if self.context is None else [x, self.context]
        written = torch.is_grad_enabled() and not is_compiling()
        net = self._written if written else self.net
        value = net(*(t.clone() for t in inputs))
        if not isinstance(value, Tensor):
            raise ValueError(f"the net returns a {type(value).__name__}: one tensor is needed")
        if value.shape != x.shape:
            raise ValueError(
                f"the net maps shape {tuple(x.shape)} to {tuple(value.shape)}; "
                "a residual map needs a net that keeps the shape of its input"
            )
        return value

    @cached_property
    def _written(self) -> Net:
        """The net without compiled code."""
        net: Net = as_written(self.net)
        return net

    def rows(self, index: Tensor | slice) -> FoldedModule:
        return self if self.context is None else FoldedModule(self.net, self.context[index])

    def requires_grad(self, x: Tensor) -> bool:
        """As for other nets; an evaluation tells where no parameter requires grad."""
        if super().requires_grad(x):
            return True
        return torch.is_grad_enabled() and self.forward(x.detach()).requires_grad


class Negated(FoldedNet):
    """The net `-g`."""

    def __init__(self, net: FoldedNet) -> None:
        self.net, self.tensors, self.shape = net, net.tensors, net.shape

    def forward(self, x: Tensor) -> Tensor:
        return -self.net.forward(x)

    def rows(self, index: Tensor | slice) -> Negated:
        return Negated(self.net.rows(index))

    def value(self, x: Tensor) -> Tensor:
        return -self.net.value(x)

    def linearize(self, x: Tensor) -> Point:
        return _NegatedPoint(self.net.linearize(x))

    def attach(self, x: Tensor, seeds: Tensor | None, point: Point) -> tuple[Tensor, Tensor]:
        assert isinstance(point, _NegatedPoint)
        value, products = self.net.attach(x, seeds, point.point)
        return -value, -products

    def recorded(self, x: Tensor) -> Point:
        return _NegatedPoint(self.net.recorded(x))

    def requires_grad(self, x: Tensor) -> bool:
        return self.net.requires_grad(x)


class _NegatedPoint(Point):
    def __init__(self, point: Point) -> None:
        self.point, self.x, self.value = point, point.x, -point.value

    def vjp(self, v: Tensor) -> Tensor:
        return -self.point.vjp(v)

    def jacobian_of(self, rows: Tensor | slice) -> Tensor:
        return -self.point.jacobian_of(rows)

    def restored(self, x: Tensor) -> Point:
        point = self.point.restored(x)
        return self if point is self.point else _NegatedPoint(point)


def fold(net: Net, context: Tensor | None = None) -> FoldedNet:
    """A net at a context, with what does not depend on its rows computed once.

    Arguments:
        net: any function or module from `[B, ...]` to the same shape. One that defines
            `fold(context)` folds itself; any other one is called as it is.
        context: one context per row, with shape `[B, context_features]`, or None.

    Returns:
        A `FoldedNet` from `[B, ...]` to the same shape.

    Raises:
        ValueError: if the net folds itself and does not take such contexts.
    """
    inner = unwrapped(net)  # nets that fold themselves need no compiler
    if _folds_itself(inner):
        folded: FoldedNet = inner.fold(context)
        return folded
    return FoldedModule(net, context)


def _folds_itself(net: Any) -> bool:
    """Whether `fold` speaks of what the net does: nobody has replaced what calls it since."""
    own = getattr(net, "__dict__", {})
    if "fold" in own or "forward" in own:
        return False
    owners: dict[str, type] = {}  # that define the methods
    for kind in reversed(type(net).__mro__):
        owners |= {name: kind for name in ("fold", "forward", "__call__") if name in vars(kind)}
    if "fold" not in owners or "forward" not in owners:
        return False
    inherited = owners["__call__"] is torch.nn.Module
    return inherited and issubclass(owners["fold"], owners["forward"])
