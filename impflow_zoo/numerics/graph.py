"""What autograd is asked and told beyond its usual: leaves of a graph, orders that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

__all__ = [
    "FirstOrder",
    "forbid_second_order",
    "inputs_only",
    "leaves",
    "nodes",
    "recording",
    "wanting_inputs_only",
    "without_hooks",
]

_only: ContextVar[bool] = ContextVar("impflow_zoo_inputs_only", default=False)


def inputs_only() -> bool:
    """Whether the backward pass that runs now wants gradients of a net's input alone.

    Operations written in Python are not told which of their gradients will be used, as torch's
    own are. One that asks here saves the work for parameters in every product with a Jacobian.
    """
    return _only.get()


@contextmanager
def wanting_inputs_only() -> Iterator[None]:
    """Within, `inputs_only` is true."""
    token = _only.set(True)
    try:
        yield
    finally:
        _only.reset(token)


@contextmanager
def without_hooks(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Take gradients by tensors without running the hooks that are registered on them.

    Within a backward pass such gradients are parts. The hooks are for the whole, which torch hands
    to them afterwards. Another thread's backward pass by the same tensors misses them meanwhile.
    """
    hooks = [t._backward_hooks for t in tensors if t._backward_hooks]
    kept = [dict(own) for own in hooks]
    try:
        for own in hooks:
            own.clear()
        yield
    finally:
        for own, before in zip(hooks, kept, strict=True):
            own.update(before)


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


def leaves(
    *outputs: Tensor | None,
    private: tuple[Tensor | None, ...] = (),
    computed: Sequence[Tensor] = (),
) -> list[Tensor]:
    """The leaf tensors that gradients of the outputs flow to, each once, less the private ones.

    Found in the graph itself, so that tensors a module does not register as parameters, and
    parameters that are frozen or not used, are treated as autograd treats them.

    Arguments:
        outputs: ends of the graph.
        private: leaves that are left out.
        computed: tensors within the graph that are taken for leaves, with what is behind them.
    """
    found = [
        node.variable
        for node in nodes(*outputs, until=computed)
        if hasattr(node, "variable") and not any(node.variable is t for t in private)
    ]
    return [*computed, *found]


def nodes(*outputs: Tensor | None, until: Sequence[Tensor] = ()) -> Iterator[Any]:
    """The nodes of the graph behind tensors, each once, none behind `until`."""
    seen = {t.grad_fn for t in until}
    stack = [get_gradient_edge(t).node for t in outputs if t is not None and t.requires_grad]
    stack = [node for node in dict.fromkeys(stack) if node not in seen]
    seen.update(stack)
    while stack:
        node = stack.pop()
        yield node
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
