"""Anderson mixing.

With steps `dw_i` of the last iterates and the changes `df_i` of their residuals `f`, the
combination `w - sum_i c_i dw_i` has the residual `f - sum_i c_i df_i`, as far as `g` is linear
there. `c` minimises its length: `(dF^T dF) c = dF^T f`. From there it takes the step of plain
iteration. Every pair is divided by `|df_i|`, which leaves the span and makes one `eps` on the
diagonal right for all rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from impflow_zoo.numerics.methods.base import Method
from impflow_zoo.numerics.rows import solve


class Anderson(Method):
    """The step from the combination of past iterates with the smallest residual.

    References:
        Iterative Procedures for Nonlinear Integral Equations (Anderson, 1965)
        https://doi.org/10.1145/321296.321305
    """

    trial = 12
    memory = 5
    steps: Tensor | None = None  # of iterate and residual, [B, m, 2 d], the oldest replaced first
    taken = 0

    def propose(self, point: Tensor, usable: Tensor) -> Tensor:
        if self.last is None:
            self.last = point
            return super().propose(point, usable)
        features = point.shape[1] // 2
        most = min(self.memory, features)
        if self.steps is None:
            self.steps = point.new_zeros(len(point), most, 2 * features)
        else:
            self.steps.mul_(usable[:, None, None])
        self.steps[:, self.taken % most] = self.step(point)
        self.last = point
        self.taken += 1
        steps = self.steps[:, : self.taken]
        df, f = steps[..., features:], point[:, features:]
        weights = (df @ f[..., None])[..., 0]
        if steps.shape[1] > 1:  # else the one difference has unit length
            gram = df @ df.mT
            gram.diagonal(dim1=1, dim2=2).add_(10 * torch.finfo(f.dtype).eps)
            weights = solve(gram, weights)
        mixed = torch.baddbmm(point[:, None], weights[:, None], steps, alpha=-1)
        return super().propose(mixed[:, 0], usable)

    def keep(self, index: Tensor) -> None:
        super().keep(index)
        self.steps = None if self.steps is None else self.steps[index]
