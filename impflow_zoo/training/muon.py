"""Muon for matrices, and for kernels of convolutions as matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "takes"]


def takes(parameter: Tensor) -> bool:
    """Whether Muon moves a parameter: a matrix, or a kernel `[out, in, height, width]`."""
    return parameter.dim() in (2, 4)


class Muon(torch.optim.Muon):
    """torch's Muon, which takes matrices alone; a kernel is one of shape `[out, in height width]`.

    The optimizer holds views of the parameters. So its state has the shape of the matrices, and a
    step moves the parameters themselves.

    References:
        Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024)
        https://kellerjordan.github.io/posts/muon/

    Arguments:
        parameters: matrices and kernels.
        options: those of `torch.optim.Muon`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], **options: Any) -> None:
        self.owners = list(parameters)
        views = [p.detach().view(len(p), -1).requires_grad_() for p in self.owners]
        super().__init__(views, **options)

    def step(self, closure: Any = None) -> Any:
        """Move the parameters along their gradients."""
        views = self.param_groups[0]["params"]
        for owner, view in zip(self.owners, views, strict=True):
            view.grad = None if owner.grad is None else owner.grad.view_as(view)
        return super().step(closure)
