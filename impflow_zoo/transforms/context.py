"""Steps that see contexts with standardised columns."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from nflows.transforms import CompositeTransform, Transform
from torch import Tensor

__all__ = ["StandardisedContext"]


class StandardisedContext(CompositeTransform):
    """A composite that takes contexts in the data's own units.

    Its parts are given `(context - mean) / std`: the context itself until `set` is called.

    Arguments:
        steps: the parts.
        features: size of a context row.
    """

    context_mean: Tensor
    context_std: Tensor

    def __init__(self, steps: Iterable[Transform], features: int) -> None:
        super().__init__(list(steps))
        self.register_buffer("context_mean", torch.zeros(features))
        self.register_buffer("context_std", torch.ones(features))

    @torch.no_grad()
    def set(self, mean: Tensor, std: Tensor) -> None:
        """Standardise columns with these means and standard deviations."""
        self.context_mean.copy_(mean)
        self.context_std.copy_(std)

    def seen(self, context: Tensor | None) -> Tensor | None:
        """What the parts are given for contexts, `[B, features]`."""
        return None if context is None else (context - self.context_mean) / self.context_std

    def like(self, noise: Tensor) -> Tensor:
        """Contexts as they come, from standard normal noise, `[B, features]`."""
        return self.context_mean + self.context_std * noise

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().forward(inputs, self.seen(context))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().inverse(inputs, self.seen(context))
