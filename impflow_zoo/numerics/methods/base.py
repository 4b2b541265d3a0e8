"""What a method of root finding has to say."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from impflow_zoo.numerics.bound import BoundNet

__all__ = ["Method"]


class Method:
    """Steps towards the root of `w + g(w) = y`, each row with its own memory.

    A method proposes the next iterate of every row from the current one and its residual
    `f = y - w - g(w)`. Budget, tolerance, finiteness and the choice of rows belong to the loop in
    `solver.py`.

    Arguments:
        net: `g`.
        unit: what residuals of each row are measured in, with shape `[B, 1]`.
        features: entries of a row.
    """

    trial: ClassVar[int] = 4  # steps over which contraction is measured before a row is given up

    def __init__(self, net: BoundNet, unit: Tensor, features: int) -> None:
        self.net, self.unit = net, unit
        self.ones = unit.new_ones(features)

    def evaluate(self, w: Tensor) -> Tensor:
        """`g(w)`, with shape `[B, ...]`, without a graph."""
        return self.net.value(w)

    def propose(self, point: Tensor, usable: Tensor) -> Tensor:
        """The next iterates, with shape `[B, d]`.

        Arguments:
            point: iterate and residual side by side, with shape `[B, 2 d]`.
            usable: False for rows that strayed and are back at their best iterate, `[B]`.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define its step")

    def keep(self, index: Tensor) -> None:
        """Go on with these rows only, given by their indices."""
        self.net, self.unit = self.net.rows(index), self.unit[index]

    def plain_step(self, point: Tensor) -> Tensor:
        """`y - g(w)`, which is `w + f`."""
        w, f = point.chunk(2, dim=1)
        return torch.add(w, f)
