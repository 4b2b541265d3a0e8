"""The base class of root-finding methods, which is fixed-point iteration, `w <- y - g(w)`.

A root `w*` of `w + g(w) = y` is a fixed point of it, and `|y - g(w) - w*| = |g(w*) - g(w)| <= kappa
|w - w*|`: each step shrinks the error by the Lipschitz constant.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from impflow_zoo.numerics.folded import FoldedNet
from impflow_zoo.numerics.rows import wide_norm


class Method:
    """Steps towards the root of `w + g(w) = y`, each row with its own memory.

    A method proposes the next iterate of every row from the current one and its residual
    `f = y - w - g(w)`. Budget, tolerance, finiteness and the choice of rows belong to the loop in
    `search.py`. This class proposes `y - g(w)`: fixed-point iteration, which shrinks the error by
    the Lipschitz constant of `g` in each step.
    """

    trial: ClassVar[int] = 4  # steps over which contraction is measured before a row is given up

    def __init__(self, net: FoldedNet, shape: torch.Size) -> None:
        self.net, self.shape = net, shape
        self.last: Tensor | None = None  # point

    def value(self, w: Tensor) -> Tensor:
        """`g(w)` of flat rows, `[B, d]`, without a graph."""
        return self.net.value(w.view(-1, *self.shape)).flatten(1)

    def propose(self, point: Tensor, usable: Tensor) -> Tensor:
        """The next iterates, `[B, d]`, from iterate and residual side by side, `[B, 2 d]`.

        `usable` is False for rows that strayed and are back at their best iterate, `[B]`.
        """
        w, f = point.chunk(2, dim=1)
        return w + f

    def step(self, point: Tensor) -> Tensor:
        """The step from the last point, over the length of its change of the residual."""
        assert self.last is not None
        step = point - self.last
        length = wide_norm(step.chunk(2, dim=1)[1])
        # None where the residual did not change.
        return step.div_(length[:, None]).nan_to_num_(0.0, 0.0, 0.0)

    def keep(self, index: Tensor) -> None:
        """Go on with these rows only, given by their indices."""
        self.net = self.net.rows(index)
        self.last = None if self.last is None else self.last[index]
