"""Anderson mixing."""

from __future__ import annotations

import torch
from torch import Tensor

from impflow_zoo.numerics.bound import BoundNet
from impflow_zoo.numerics.dense import solve
from impflow_zoo.numerics.methods.base import Method

__all__ = ["Anderson"]


class Anderson(Method):
    """The step from the combination of past iterates of least residual.

    References:
        Iterative Procedures for Nonlinear Integral Equations (Anderson, 1965)
        https://doi.org/10.1145/321296.321305
    """

    trial = 12
    memory = 5

    def __init__(self, net: BoundNet, unit: Tensor, features: int) -> None:
        super().__init__(net, unit, features)
        self.last: Tensor | None = None
        self.steps: Tensor | None = None  # of iterate and residual, [B, m, 2 d]
        self.taken = 0

    def propose(self, point: Tensor, usable: Tensor) -> Tensor:
        if self.last is not None:
            self._remember(point - self.last, usable)
        self.last = point
        if self.steps is None:
            return self.plain_step(point)
        w, f = point.chunk(2, dim=1)
        steps = self.steps[:, : self.taken]
        df = steps[..., w.shape[1] :]
        weights = (df @ f[..., None])[..., 0]
        if steps.shape[1] > 1:  # else the one difference has unit length
            gram = df @ df.mT
            gram.diagonal(dim1=1, dim2=2).add_(10 * torch.finfo(w.dtype).eps)
            weights = solve(gram, weights)
        mixed = (weights[:, None] @ steps)[:, 0]
        return self.plain_step(point - mixed)

    def _remember(self, step: Tensor, usable: Tensor) -> None:
        """Keep a step, scaled to a unit difference of residuals, in place of the oldest."""
        features = step.shape[1] // 2
        most = min(self.memory, features)
        if self.steps is None:
            self.steps = step.new_zeros(len(step), most, step.shape[1])
        else:
            self.steps.mul_(usable[:, None, None])
        difference = step[:, features:] / self.unit
        square = torch.mv(difference * difference, self.ones)[:, None]
        scale = (square.rsqrt() / self.unit).nan_to_num_(0.0, 0.0, 0.0)  # none where it is zero
        torch.mul(step, scale, out=self.steps[:, self.taken % most])
        self.taken += 1

    def keep(self, index: Tensor) -> None:
        super().keep(index)
        self.last = None if self.last is None else self.last[index]
        self.steps = None if self.steps is None else self.steps[index]
