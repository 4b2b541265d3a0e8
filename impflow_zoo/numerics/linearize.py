"""One evaluation of a net whose graph serves every later product with its Jacobian."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from impflow_zoo.numerics.rows import Net, call

__all__ = [
    "FirstOrder",
    "Linearization",
    "forbid_second_order",
    "inputs_only",
    "leaves",
    "linearize",
    "recording",
]

_CHUNK = 16  # Jacobian rows per vmapped product: bounds memory, large enough to fill a core


class Linearization:
    """A point `x`, the value `g(x)` and the graph between them.

    Arguments:
        x: where the net was evaluated, requiring grad, with shape `[B, ...]`.
        value: `g(x)`, of the same shape.
    """

    def __init__(self, x: Tensor, value: Tensor) -> None:
        self.x = x
        self.value = value
        self._jacobian: Tensor | None = None

    @property
    def features(self) -> int:
        """Number of entries in a row."""
        return self.x[:1].numel() if len(self.x) else self.x.flatten(1).shape[1]

    def vjp(self, v: Tensor, *, create_graph: bool = False) -> Tensor:
        """The products `J^T v`, row by row, with the shape of `x`."""
        if not self.value.requires_grad:
            return torch.zeros_like(self.x)
        with _inputs_only():
            (product,) = torch.autograd.grad(
                self.value,
                self.x,
                v.to(self.value.dtype),
                retain_graph=True,
                create_graph=create_graph,
                materialize_grads=True,
            )
        return product

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

    def remember(self, jacobian: Tensor | None) -> Linearization:
        """Attach a Jacobian computed earlier at this point."""
        self._jacobian = jacobian
        return self

    @property
    def known_jacobian(self) -> Tensor | None:
        """The dense Jacobian, if somebody has paid for it already."""
        return self._jacobian

    def _has_python_nodes(self) -> bool:
        nodes = _nodes(self.value, until=self.x)
        return any(isinstance(node, BackwardCFunction) for node in nodes)

    def _products(self, basis: Tensor, *, create_graph: bool) -> Tensor:
        seeds = basis[:, None, :].expand(-1, len(self.x), -1).reshape(len(basis), *self.x.shape)
        # Under vmap, functions written in Python lose the graph of their backward without a word.
        batched = not (create_graph and self._has_python_nodes())
        if batched and len(basis) > 2 and self.value.requires_grad:
            try:
                with _inputs_only():
                    (products,) = torch.autograd.grad(
                        self.value,
                        self.x,
                        seeds,
                        retain_graph=True,
                        create_graph=create_graph,
                        is_grads_batched=True,
                        materialize_grads=True,
                    )
                return products.flatten(2)
            except RuntimeError:
                pass  # a user's net may hold an operation without a batching rule: one by one
        return torch.stack([self.vjp(v, create_graph=create_graph).flatten(1) for v in seeds])


def linearize(g: Net, x: Tensor, context: Tensor | None = None) -> Linearization:
    """Evaluate `g` at `x` and keep the graph, whatever the ambient gradient mode is.

    If gradients are recorded and `x` requires grad, the result is part of the caller's graph;
    else it hangs on a leaf of its own. The caller's tensors are left as they are.

    Arguments:
        g: a net, called as `g(x)` or `g(x, context)`.
        x: the points, with shape `[B, ...]`.
        context: one context per row, or None.
    """
    attached = torch.is_grad_enabled() and x.requires_grad
    with recording():
        if x.is_inference():
            x = x.clone()
        if context is not None and context.is_inference():
            context = context.clone()
        point = x.view_as(x) if attached else x.detach().requires_grad_()
        # Under autocast a net answers in a narrower type; the mathematics goes on in that of x.
        return Linearization(point, call(g, point, context).to(x.dtype))


_only: ContextVar[bool] = ContextVar("impflow_zoo_inputs_only", default=False)


def inputs_only() -> bool:
    """Whether the backward pass that runs now wants gradients of a net's input alone.

    Operations written in Python are not told which of their gradients will be used, as torch's
    own are. One that asks here saves the work for parameters in every product with a Jacobian.
    """
    return _only.get()


@contextmanager
def _inputs_only() -> Iterator[None]:
    token = _only.set(True)
    try:
        yield
    finally:
        _only.reset(token)


class recording:  # noqa: N801 - used as a context manager, like torch.enable_grad
    """Record gradients, inside `torch.no_grad` and `torch.inference_mode` too."""

    def __enter__(self) -> None:
        self._inference = torch.inference_mode(mode=False)
        self._grad = torch.enable_grad()
        self._inference.__enter__()
        self._grad.__enter__()

    def __exit__(self, *error: object) -> None:
        self._grad.__exit__(*error)
        self._inference.__exit__(*error)


class FirstOrder(torch.autograd.Function):
    """The identity, for a tensor whose gradient is right but not the gradient's derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        forbid_second_order()
        return grad


def forbid_second_order() -> None:
    """Called in a backward pass, refuse to record it for being differentiated again.

    Raises:
        RuntimeError: in a backward pass with `create_graph=True`.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "this derivative can be taken once only, not with create_graph=True: second "
            "derivatives need the residual direction of a block with logdet='exact' or 'truncated'"
        )


def leaves(*outputs: Tensor | None, private: tuple[Tensor | None, ...] = ()) -> list[Tensor]:
    """The leaf tensors that gradients of the outputs flow to, each once, less the private ones.

    Found in the graph itself, so that tensors a module does not register as parameters, and
    parameters that are frozen or not used, are treated as autograd treats them.
    """
    return [
        node.variable
        for node in _nodes(*outputs)
        if hasattr(node, "variable") and not any(node.variable is t for t in private)
    ]


def _nodes(*outputs: Tensor | None, until: Tensor | None = None) -> Iterator[Any]:
    """The nodes of the graph behind tensors, each once, none behind `until`."""
    stack = [t.grad_fn for t in outputs if t is not None and t.grad_fn is not None]
    seen = {*stack, None if until is None else until.grad_fn}
    while stack:
        node = stack.pop()
        yield node
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
