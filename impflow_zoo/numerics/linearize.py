"""A net at a point: one evaluation that serves every later product with its Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from impflow_zoo.numerics.bound import BoundNet

__all__ = ["Linearization"]


class Linearization:
    """A point `x`, the value `g(x)` and products with the Jacobian `J` of `g` there.

    This one takes products by autograd. A net that knows better returns a sub-class from
    `BoundNet.linearize`.

    Arguments:
        net: the net.
        x: where it was evaluated, requiring grad, with shape `[B, ...]`.
        value: `g(x)`, of the same shape, in the graph of `x`.
    """

    def __init__(self, net: BoundNet, x: Tensor, value: Tensor) -> None:
        self.net, self.x, self.value = net, x, value
        self.known_jacobian: Tensor | None = None  # dense, if somebody has paid for it already
        self._checked = False

    @property
    def features(self) -> int:
        """Number of entries in a row."""
        return self.x[:1].numel() if len(self.x) else self.x.flatten(1).shape[1]

    def vjp(self, v: Tensor, *, create_graph: bool = False) -> Tensor:
        """The products `J^T v`, row by row, with the shape of `x`.

        Raises:
            ValueError: if the net hides how it depends on `x`.
        """
        product = self._pull(v, create_graph=create_graph)
        return self._nothing() if product is None else product

    def attach(self, seeds: Tensor | None) -> Tensor:
        """Products in the graph of `x` and the net, which `value` is part of from then on.

        Arguments:
            seeds: rows to multiply from the left, `[B, k, d]`; None is the identity.

        Returns:
            `seeds @ J`, with shape `[B, k, d]`.
        """
        if seeds is None:
            seeds = self._identity().expand(len(self.x), -1, -1)
        rows = [
            self.vjp(v.reshape(self.x.shape), create_graph=True).flatten(1) for v in seeds.unbind(1)
        ]
        return torch.stack(rows, dim=1)

    def attach_value(self) -> Tensor:
        """`value`, in the graph of the net."""
        return self.value

    def moved(self, x: Tensor) -> Linearization:
        """The same at another tensor of the same numbers, in the graph of that."""
        return self.net.linearize(x)

    def state(self) -> list[Tensor]:
        """Tensors that `restored` makes the same linearization of, for autograd to save."""
        return [self.x, self.value]

    @classmethod
    def restored(cls, net: Any, state: Sequence[Tensor]) -> Self:
        """The linearization of a net with this state."""
        return cls(net, *state)

    def jacobian(self) -> Tensor:
        """Dense Jacobians `[B, d, d]` without a graph; `[b, i, j]` is `d g_i / d x_j` of row `b`.

        The result is kept, for the implicit derivative to reuse.
        """
        if self.known_jacobian is None:
            self.known_jacobian = self.jacobian_of(slice(None))
        return self.known_jacobian

    def jacobian_of(self, rows: Tensor | slice) -> Tensor:
        """The dense Jacobians of some rows, given by their indices, without a graph."""
        # So few products at once bound memory, and fill a core.
        parts = [self._products(part)[:, rows] for part in self._identity().split(16)]
        return torch.cat(parts).transpose(0, 1)

    def _identity(self) -> Tensor:
        return torch.eye(self.features, dtype=self.x.dtype, device=self.x.device)

    def _pull(
        self, v: Tensor, *, create_graph: bool = False, batched: bool = False
    ) -> Tensor | None:
        if not self.value.requires_grad:
            return None
        with self.net.products_only():
            (product,) = torch.autograd.grad(
                self.value,
                self.x,
                v.to(self.value.dtype),
                retain_graph=True,
                create_graph=create_graph,
                is_grads_batched=batched,
                allow_unused=True,
            )
        return product

    def _products(self, basis: Tensor) -> Tensor:
        """Products of each row of the batch with some basis vectors, `[k, B, d]`."""
        seeds = basis[:, None, :].expand(-1, len(self.x), -1).reshape(len(basis), *self.x.shape)
        if len(basis) > 2:
            try:
                products = self._pull(seeds, batched=True)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error):
                    raise
                # A net may hold an operation without a batching rule: one by one. If the error is
                # another one, it comes again there.
            else:
                found = self._nothing()[None] if products is None else products
                return found.expand_as(seeds).flatten(2)
        return torch.stack([self.vjp(v).flatten(1) for v in seeds])

    def _nothing(self) -> Tensor:
        """The products where the graph does not lead to the point, if that is as it should be."""
        if not self._checked:
            _check_constant(self.net, self.x.detach())
            self._checked = True
        return torch.zeros_like(self.x)


def _check_constant(net: BoundNet, x: Tensor) -> None:
    """A net whose graph does not lead to its input may be constant, or random.

    Raises:
        ValueError: if it answers otherwise at other points: then its Jacobian is not known.
    """
    here, again, there = (net.value(point) for point in (x, x, 0.5 * x))
    if torch.equal(here, again) and not torch.equal(here, there):
        raise ValueError(
            "the net's answer depends on its input but its graph does not lead there, so that its "
            "Jacobian is not known: is there torch.no_grad, detach, numpy or an integer within?"
        )
