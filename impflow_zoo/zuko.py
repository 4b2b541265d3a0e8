"""The same blocks as `torch.distributions` transforms and as lazy parts of zuko flows."""

from __future__ import annotations

from typing import Any

import nflows.transforms
import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from impflow_zoo.transforms.whole import walk

try:
    from zuko.lazy import LazyTransform
except ModuleNotFoundError as error:
    if error.name not in ("zuko", "zuko.lazy"):  # an error of its own
        raise
    raise ModuleNotFoundError(
        "impflow_zoo.zuko needs zuko: pip install 'impflow_zoo[zuko]'", name="zuko"
    ) from None

__all__ = ["BlockTransform", "LazyBlock"]


class BlockTransform(Transform):
    """A block with its context as a `torch.distributions` transform, data -> noise.

    Inputs and contexts may have any number of batch dimensions, which are broadcast. Calling it
    returns points of the shape that the two have together. It raises a ValueError if they do not
    broadcast, and the errors of the block.

    Arguments:
        block: an `ImpFlowTransform`, a `ResFlowTransform` or another transform of nflows.
        context: with shape `(*, context_features)`, or None.
        event_dim: dimensions of one point: 1 for vectors, 3 for images.
        reverse: swap the two directions: noise -> data.
    """

    bijective = True

    def __init__(
        self,
        block: nflows.transforms.Transform,
        context: Tensor | None = None,
        *,
        event_dim: int = 1,
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.block = block
        self.context = context
        self.reverse = reverse
        self.domain = self.codomain = constraints.independent(constraints.real, event_dim)

    @property
    def inv(self) -> BlockTransform:
        """The inverse, with at most one root, and a log-determinant only if it is asked for."""
        return BlockTransform(
            self.block, self.context, event_dim=self.event_dim, reverse=not self.reverse
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockTransform) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        if not vars(self):  # torch.compile asks before it is made
            return (id(self),)
        return id(self.block), id(self.context), self.event_dim, self.reverse

    def _call(self, x: Tensor) -> Tensor:
        rows, context, batch = self._rows(x)
        # It is no layer of a net, which autocast may round: densities and samples depend on it.
        y, _ = walk(self.block, rows, context, backwards=self.reverse, want_logdet=False)
        return y.unflatten(0, batch) if batch else y[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """`log|det dy/dx|` with the batch shape of `x`, from one evaluation.

        Arguments:
            x: points with shape `(*, D)`, or `(*, C, H, W)` for images.
            y: their images, with the same shape.

        Raises:
            ValueError: if the batch dimensions of `x` and the context do not broadcast; further
                errors are those of the block.
        """
        if self.reverse:
            return -self.inv.call_and_ladj(y)[1]
        return self.call_and_ladj(x)[1]

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and log-determinants from one evaluation.

        Arguments:
            x: points with shape `(*, D)`, or `(*, C, H, W)` for images.

        Returns:
            `y` with the shape of `x`, and `log|det dy/dx|` with its batch shape `(*,)`; batch
            dimensions of the context are broadcast.

        Raises:
            ValueError: if the batch dimensions of `x` and the context do not broadcast; further
                errors are those of the block.
        """
        rows, context, batch = self._rows(x)
        y, ladj = (self.block.inverse if self.reverse else self.block)(rows, context)
        return (y.unflatten(0, batch), ladj.unflatten(0, batch)) if batch else (y[0], ladj[0])

    def _rows(self, x: Tensor) -> tuple[Tensor, Tensor | None, tuple[int, ...]]:
        """Points and contexts as `[B, ...]`, and the batch shape they come from."""
        batch, event = x.shape[: x.dim() - self.event_dim], x.shape[x.dim() - self.event_dim :]
        if self.context is None:
            return x.reshape(-1, *event), None, tuple(batch)
        size = self.context.shape[-1]
        try:
            batch = torch.broadcast_shapes(batch, self.context.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"inputs of shape {tuple(x.shape)} and contexts of shape "
                f"{tuple(self.context.shape)}: their batch dimensions do not broadcast"
            ) from None
        rows = x.expand(*batch, *event).reshape(-1, *event)
        return rows, self.context.expand(*batch, size).reshape(-1, size), tuple(batch)


class LazyBlock(LazyTransform):
    """A block as a part of `zuko.flows.Flow`, which passes it the context.

    The attribute `transform` holds the block, whose `state_dict` can be used in both libraries.

    Arguments:
        transform: an `ImpFlowTransform`, a `ResFlowTransform` or another transform of nflows.
        event_dim: dimensions of one point.

    Example:
        >>> import zuko
        >>> from impflow_zoo import ImpFlowTransform, LipschitzMLP
        >>> nets = [LipschitzMLP(2, context_features=3) for _ in range(2)]
        >>> base = zuko.lazy.UnconditionalDistribution(
        ...     zuko.distributions.DiagNormal, torch.zeros(2), torch.ones(2), buffer=True
        ... )
        >>> flow = zuko.flows.Flow(LazyBlock(ImpFlowTransform(*nets)), base)
        >>> flow(torch.zeros(5, 3)).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(self, transform: nflows.transforms.Transform, *, event_dim: int = 1) -> None:
        super().__init__()
        self.transform = transform
        self.event_dim = event_dim

    def forward(self, c: Tensor | None = None) -> Any:
        """The transform of the block at a context.

        Arguments:
            c: a context with shape `(*, context_features)`, or None.

        Returns:
            A `BlockTransform`, data -> noise. It takes points with shape `(*, D)`, and raises the
            errors of the block when it is called.
        """
        return BlockTransform(self.transform, c, event_dim=self.event_dim)
