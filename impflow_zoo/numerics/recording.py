"""What autograd is told beyond its usual: to record, or to differentiate once only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
