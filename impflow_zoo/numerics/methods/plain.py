"""Plain iteration."""

from __future__ import annotations

from torch import Tensor

from impflow_zoo.numerics.methods.base import Method

__all__ = ["PlainIteration"]


class PlainIteration(Method):
    """`w <- y - g(w)`: contracts by the Lipschitz constant of `g` a step."""

    def propose(self, point: Tensor, usable: Tensor) -> Tensor:
        return self.plain_step(point)
