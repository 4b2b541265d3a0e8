"""Newton's method."""

from __future__ import annotations

import torch
from torch import Tensor

from impflow_zoo.numerics.bound import BoundNet
from impflow_zoo.numerics.dense import plus_identity, solve
from impflow_zoo.numerics.linearize import Linearization
from impflow_zoo.numerics.methods.base import Method

__all__ = ["Newton"]


class Newton(Method):
    """Newton's method with the dense Jacobian: for few features, or as the last resort."""

    def __init__(self, net: BoundNet, unit: Tensor, features: int) -> None:
        super().__init__(net, unit, features)
        self.point: Linearization | None = None
        self.index: Tensor | None = None  # rows kept since the point was evaluated

    def evaluate(self, w: Tensor) -> Tensor:
        self.point, self.index = self.net.linearize(w), None
        return self.point.value.detach()

    def propose(self, point: Tensor, usable: Tensor) -> Tensor:
        assert self.point is not None  # a step starts with an evaluation
        jacobian = self.point.jacobian()
        if self.index is not None:
            jacobian = jacobian[self.index]
        w, f = point.chunk(2, dim=1)
        step = solve(plus_identity(jacobian), f)
        # The Jacobian is not that of the best iterate, where a row is back at it.
        return torch.add(w, torch.where(usable[:, None], step, f))

    def keep(self, index: Tensor) -> None:
        super().keep(index)
        self.index = index if self.index is None else self.index[index]
