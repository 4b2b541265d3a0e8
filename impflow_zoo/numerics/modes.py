"""Modes of torch: gradients are recorded or not, autocast, transforms of `torch.func`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["is_dual", "is_transforming", "recording", "without_autocast"]


@contextmanager
def recording(*, mode: bool = True) -> Iterator[None]:
    """Record gradients or not, and leave `torch.inference_mode`, whose tensors enter no graph."""
    with torch.inference_mode(mode=False), torch.set_grad_enabled(mode):
        yield


def is_dual(*tensors: Tensor) -> bool:
    """Whether a tensor has a forward-mode derivative."""
    if forward_ad._current_level < 0:  # nobody asks for such derivatives
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def is_transforming() -> bool:
    """Whether `torch.func` is transforming a function: its tensors are no tensors elsewhere."""
    # By a private name: torch has no other way to ask.
    return torch._C._functorch.peek_interpreter_stack() is not None


@contextmanager
def without_autocast(*where: nn.Module | Tensor) -> Iterator[None]:
    """No rounding by autocast, neither on the CPU nor where tensors or the parameters are.

    Autocast would round the products from which norms, weights, proofs and densities are made.
    """
    tensors = (t for one in where for t in ([one] if isinstance(one, Tensor) else one.parameters()))
    with ExitStack() as stack:
        for place in {"cpu", *(t.device.type for t in tensors)} - {"meta"}:
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
            "this derivative cannot be differentiated again (create_graph=True): second "
            "derivatives need the residual direction of a block with logdet='exact' or 'truncated'"
        )
