"""Small operations that treat every row of a batch on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

__all__ = [
    "Net",
    "all_finite",
    "call",
    "computed_parameters",
    "dot",
    "listed",
    "norm",
    "select",
    "uncompiled",
]

Net = Callable[..., Tensor]

_SHORT = 8  # entries up to which torch sums a row faster as a product with ones,
_MANY = 1000  # where there are so many rows


def call(g: Net, x: Tensor, context: Tensor | None) -> Tensor:
    """Evaluate a net the way the whole package does: `g(x)`, or `g(x, context)` if there is one.

    What `torch.compile` has made of it is run where no gradient is recorded: its code has no second
    derivatives, which gradients of log-determinants need. A net that does not say of itself that it
    is `pure` is given copies, as it may work in place.

    Raises:
        ValueError: if the net does not answer with a tensor of the shape of its input.
    """
    if torch.is_grad_enabled():
        g = uncompiled(g)
        if getattr(g, "_compiled_call_impl", None) is not None:  # by `net.compile()`
            g = cast(nn.Module, g)._call_impl
    if getattr(uncompiled(g), "pure", False):
        value = g(x) if context is None else g(x, context)
    else:
        value = g(x.clone()) if context is None else g(x.clone(), context.clone())
    if not isinstance(value, Tensor):
        raise ValueError(f"the net answers with a {type(value).__name__}: one tensor is needed")
    if value.shape != x.shape:
        raise ValueError(
            f"the net maps shape {tuple(x.shape)} to {tuple(value.shape)}; "
            "a residual map needs a net that keeps the shape of its input"
        )
    return value


def uncompiled(g: Net) -> Net:
    """The net within what `torch.compile(net)` returns."""
    original: Net = getattr(g, "_orig_mod", g)
    return original


def computed_parameters(g: Net) -> list[Tensor]:
    """Parameters of a net that are no leaves of the graph.

    Those that `torch.func.functional_call` puts in their place, of a hypernetwork, say.
    """
    parameters = getattr(uncompiled(g), "parameters", tuple)
    return list(dict.fromkeys(p for p in parameters() if p.grad_fn is not None))


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each row, `[B, ...] -> [B]`, safe from overflow of the squares."""
    x = x.flatten(1)
    short = x.shape[1] <= _SHORT and x.shape[0] >= _MANY
    if not short or torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
        plain = torch.linalg.vector_norm(x, dim=1)
    else:  # not for autocast, which would round
        plain = torch.mv(x * x, x.new_ones(x.shape[1])).sqrt_()
    if not len(plain):
        return plain
    low, high = (float(t) for t in plain.detach().aminmax())
    smallest = torch.finfo(x.dtype).tiny ** 0.5
    if low > smallest and high < math.inf:
        return plain
    safe = (plain > smallest) & plain.isfinite()
    largest = x.abs().amax(dim=1, keepdim=True)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    scaled = torch.linalg.vector_norm(x / scale, dim=1) * scale[:, 0]
    return torch.where(safe, plain, scaled)


def all_finite(x: Tensor) -> bool:
    """Whether no entry is NaN or infinite; by the extremes, at a seventh of the cost."""
    if not x.numel():
        return True
    low, high = x.detach().aminmax()
    return math.isfinite(float(low)) and math.isfinite(float(high))


def listed(rows: list[int]) -> str:
    """The first row numbers, for a message."""
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each pair of rows, `[B, ...], [B, ...] -> [B]`."""
    return (a * b).flatten(1).sum(dim=1)


def select(x: Tensor | None, rows: Tensor) -> Tensor | None:
    """Rows of a tensor that may be absent."""
    return None if x is None else x.index_select(0, rows)
