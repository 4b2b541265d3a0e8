"""Whole maps that change contexts before their parts see them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from nflows.transforms import Transform
from torch import Tensor, nn

from impflow_zoo.transforms.whole import WholeTransform

__all__ = ["ConditionalTransform", "StandardisedContext"]


class ConditionalTransform(WholeTransform, ABC):
    """A whole map whose parts see something else than the contexts it is given."""

    @abstractmethod
    def embedded(self, context: Tensor) -> Tensor:
        """What the parts are given for contexts.

        Arguments:
            context: contexts as they come, with shape `[B, context_features]`.

        Returns:
            A tensor with shape `[B, ...]`.
        """

    @abstractmethod
    def like(self, noise: Tensor) -> Tensor:
        """Contexts as they come, from noise: for examples, where no data are at hand.

        Arguments:
            noise: standard normal, with shape `[B, context_features]`.

        Returns:
            Contexts with the shape of the noise.
        """


class StandardisedContext(ConditionalTransform):
    """A whole map that takes contexts in the data's own units.

    Its parts see `(context - mean) / std`, mapped by a net if there is one. Until `set` is called
    the mean is 0 and the standard deviation is 1.

    Arguments:
        steps, shape: as in `WholeTransform`.
        features: size of a context row.
        embedding_net: maps standardised contexts before the parts see them, to `[B, n]`.
    """

    context_mean: Tensor
    context_std: Tensor

    def __init__(
        self,
        steps: Iterable[Transform],
        shape: tuple[int, ...],
        features: int,
        embedding_net: nn.Module | None = None,
    ) -> None:
        super().__init__(steps, shape, features)
        self.embedding_net = embedding_net
        self.register_buffer("context_mean", torch.zeros(features))
        self.register_buffer("context_std", torch.ones(features))

    @torch.no_grad()
    def set(self, mean: Tensor, std: Tensor) -> None:
        """Standardise contexts with these means and standard deviations.

        Arguments:
            mean, std: of each column of the context, with shape `[features]`; no `std` may be 0.

        Raises:
            RuntimeError: for tensors of another size.
        """
        self.context_mean.copy_(mean)
        self.context_std.copy_(std)

    def embedded(self, context: Tensor) -> Tensor:
        context = (context - self.context_mean) / self.context_std
        return context if self.embedding_net is None else self.embedding_net(context)

    def like(self, noise: Tensor) -> Tensor:
        return self.context_mean + self.context_std * noise
