"""Layers between spaces of norms 1, 2 or infinity, with norms as published code took them.

Two kinds of norms have closed forms, each attained by one column or row of the matrix `W`:

    from the 1-norm to the q-norm            max_j |W e_j|_q, as W x = sum_j x_j W e_j
    from the p-norm to the maximum norm      max_i |w_i|_r, as |w_i x| <= |w_i|_r |x|_p

with the columns `W e_j`, the rows `w_i` and `1 / p + 1 / r = 1` (Hoelder's inequality).

A network that starts in one p-norm and ends in another is no contraction in either by its layers'
norms alone: what is certified of these layers is their 2-norm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from impflow_zoo.lipschitz.convolutions import LipschitzConv2d
from impflow_zoo.lipschitz.norms import LipschitzLinear, SpectralLayer
from impflow_zoo.numerics.modes import is_transforming, without_autocast

__all__ = ["PublishedConv2d", "PublishedLinear", "Space", "spaces"]

Space = tuple[float, float]  # the p-norms that a layer maps from and to
_ORDERS = {"1": 1.0, "2": 2.0, "f": math.inf, "p": math.nan}


def spaces(norm: str, layers: int) -> list[Space]:
    """The p-norms that each layer maps from and to.

    Arguments:
        norm: one character for each space, first to last: `1`, `2`, `f` for infinity, `p` for an
            order that was learned; or `"2"` for all of them.
        layers: number of layers, one less than spaces.

    Raises:
        ValueError: if it is none of these.
    """
    orders = norm * (layers + 1) if norm == "2" else norm
    if len(orders) != layers + 1 or not set(orders) <= _ORDERS.keys():
        raise ValueError(
            f"unknown norm {norm!r}: choose '2', or {layers + 1} characters for {layers} layers, "
            "each 1, 2, f or p"
        )
    return list(itertools.pairwise(_ORDERS[order] for order in orders))


class PublishedLayer(SpectralLayer):
    """What `PublishedLinear` and `PublishedConv2d` share: a layer from a p-norm to a q-norm.

    Where the norm has a closed form, every row (or column, from the 1-norm) is shrunk on its own.
    Else the norm is `u . W v`, with the vectors that came with the weights, converged or not.
    Training follows those of the 2-norm.
    """

    space: Space = (2.0, 2.0)
    u: Tensor
    v: Tensor

    def __init__(self, *sizes: Any) -> None:
        super().__init__(*sizes)
        self.register_buffer("vector", self.vector, persistent=False)
        channels = self.weight.shape[:2]
        for name, size in zip("uv", channels, strict=True):
            self.register_buffer(name, torch.zeros(size * len(self.vector) // min(channels)))
        if not self.weight.is_meta:  # bounded before vectors are loaded, too
            with torch.no_grad(), without_autocast(self):
                self.advance()

    def between(self, space: Space) -> Self:
        """Say which p-norms the layer maps from and to, before weights are loaded."""
        self.space = space
        if self.has_closed_form:
            for name in ("u", "v"):  # not needed
                self.register_buffer(name, getattr(self, name), persistent=False)
        return self

    @property
    def has_closed_form(self) -> bool:
        """Whether the norm needs no power vectors."""
        return self.space[0] == 1 or self.space in ((2, math.inf), (math.inf, math.inf))

    def settled(self, find: Callable[[], Tensor] | None = None) -> Tensor:
        """The vector as it is: evaluation does not use it."""
        return self.vector

    def settle(self) -> None:
        """Nothing: in evaluation the vectors stay as they came."""

    def norm(self, *, iterate: bool) -> Any:
        if iterate and is_transforming() and not self.has_closed_form:
            raise RuntimeError(
                "power vectors of published layers follow the weight in training, which a function "
                "that is transformed by torch.func cannot write: call eval() before"
            )
        return super().norm(iterate=iterate)

    def attained(self, vector: Tensor | None = None) -> Tensor:
        return torch.dot(self.u.clone(), self.operator(self.weight, self.v.clone()))

    @torch.no_grad()
    def advance(self) -> Tensor:
        if self.has_closed_form:
            return self.vector
        if self.space != (2, 2):
            raise ValueError("power vectors between these norms are not trained: call eval() first")
        vector = super().advance()
        image = self.unit(self.operator(self.tall(self.weight), vector))
        self.u.copy_(image if len(self.u) >= len(self.v) else vector)
        self.v.copy_(vector if len(self.u) >= len(self.v) else image)
        return vector

    def in_use(self, norm: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        if self.has_closed_form:
            factor = self._slices() / self.coefficient
        else:  # the published code divides by a number in float32, whatever the type of the weight
            factor = (norm / self.coefficient).float().to(self.weight.dtype)
        weight = self.weight / factor.clamp(min=1) * scale
        if weight.dim() == 2 or is_transforming():
            return weight
        return weight.contiguous(memory_format=torch.channels_last)

    def _slices(self) -> Tensor:
        """The norms of rows or columns, or of the kernels of channels."""
        domain, codomain = self.space
        order = codomain if domain == 1 else {2.0: 2.0, math.inf: 1.0}[domain]
        others = [i for i in range(self.weight.dim()) if i != int(domain == 1)]
        norms: Tensor = torch.linalg.vector_norm(self.weight, order, dim=others, keepdim=True)
        return norms


class PublishedLinear(PublishedLayer, LipschitzLinear):
    """A linear layer between p-norms."""


class PublishedConv2d(PublishedLayer, LipschitzConv2d):
    """A convolution between p-norms."""
