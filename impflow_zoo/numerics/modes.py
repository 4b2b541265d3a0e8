"""Modes of torch: gradients are recorded or not, autocast, transforms and compilers.

Under transforms of `torch.func` the host may not look at numbers. A search has to, to know when to
stop: `seen` takes the transforms off a tensor, and mapped rows are looked at together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = [
    "grad_mode",
    "is_compiling",
    "is_plain",
    "is_transforming",
    "seen",
    "without_autocast",
]


def grad_mode(*, enabled: bool) -> Any:
    """Record gradients or not, and leave `torch.inference_mode`, whose tensors enter no graph.

    A context manager, or a decorator.
    """
    # The compiler does not know the inference mode as something to leave.
    return torch.set_grad_enabled(enabled) if is_compiling() else _grad_mode(enabled)


@contextmanager
def _grad_mode(enabled: bool) -> Iterator[None]:
    cached = torch.is_autocast_cache_enabled()
    # Autocast of torch 2.10 takes what it rounded without a graph for parameters within one.
    torch.set_autocast_cache_enabled(cached and enabled)
    try:
        with torch.inference_mode(mode=False), torch.set_grad_enabled(enabled):
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)


def is_compiling() -> bool:
    """Whether this thread compiles, or any thread exports.

    `torch.compiler.is_compiling` is true in all threads while one of them compiles.
    """
    return torch.compiler.is_dynamo_compiling() or torch.compiler.is_exporting()


def is_plain() -> bool:
    """Whether every operation has to be one of torch's own.

    So it is within `torch.compile` and `torch.export`, which write operations down, and within
    transforms.
    """
    return is_compiling() or is_transforming()


def is_transforming() -> bool:
    """Whether `torch.func` transforms a function, or forward-mode derivatives are asked for.

    Then tensors are no tensors elsewhere, and the host cannot look at them but by `seen`.
    """
    if is_compiling():
        return False
    # By private names: torch has no other way to ask.
    transforms = torch._C._functorch.peek_interpreter_stack() is not None
    return transforms or forward_ad._current_level >= 0


def seen(rows: Tensor) -> Tensor:
    """Rows as the host may look at them: below the transforms of `torch.func`, without a graph.

    Under `torch.func.vmap` they are those of all mapped calls, one behind the other.

    Arguments:
        rows: with shape `[B, ...]`; with `[N B, ...]` they come back from N mapped calls.
    """
    if not is_transforming():
        return rows
    box = _Box()
    _Seen.apply(box, rows.detach())
    assert box.rows is not None
    return box.rows


class _Box:
    """What a function has looked at."""

    rows: Tensor | None = None


class _Seen(torch.autograd.Function):
    """Transforms take their part off a tensor, one by one, until `forward` has what is below."""

    @staticmethod
    def forward(box: _Box, rows: Tensor) -> Tensor:
        box.rows = rows
        return rows.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[_Box, Tensor], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[None, int | None], box: _Box, rows: Tensor
    ) -> tuple[Tensor, None]:
        _, mapped = in_dims
        whole = rows if mapped is None else rows.movedim(mapped, 0).flatten(0, 1)
        output: Tensor = _Seen.apply(box, whole)
        return output, None


def without_autocast(*where: nn.Module | Tensor) -> AbstractContextManager[Any]:
    """No rounding by autocast, neither on the CPU nor where tensors or the parameters are.

    Autocast would round the products from which norms, weights, proofs and densities are made.
    """
    if is_compiling():
        kind = next(_tensors(where)).device.type
        narrow = torch.is_autocast_enabled(kind)
        return torch.autocast(kind, enabled=False) if narrow else nullcontext()
    return _without_autocast(where)


def _tensors(where: tuple[nn.Module | Tensor, ...]) -> Iterator[Tensor]:
    return (t for one in where for t in ([one] if isinstance(one, Tensor) else one.parameters()))


@contextmanager
def _without_autocast(where: tuple[nn.Module | Tensor, ...]) -> Iterator[None]:
    with ExitStack() as stack:
        for place in {"cpu", *(t.device.type for t in _tensors(where))} - {"meta"}:
            if torch.is_autocast_enabled(place):
                stack.enter_context(torch.autocast(place, enabled=False))
        yield


def forbid_second_order(_: Tensor | None = None) -> None:
    """Called in a backward pass, refuse to record it for being differentiated again.

    Raises:
        RuntimeError: in a backward pass with `create_graph=True`.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "this derivative cannot be differentiated again (create_graph=True). Take "
            "logdet='exact' and torch.func: vmap(grad(f))(x), whose result backward() "
            "differentiates. ResFlow's direction from data to noise needs no torch.func"
        )
