"""Newton's method: `w + (I + J)^-1 f` with the residual `f = y - w - g(w)`.

It solves the equation as if `g` were linear at `w`, and squares the error in each step near the
root.
"""

from __future__ import annotations

import torch
from torch import Tensor

from impflow_zoo.numerics.methods.base import Method
from impflow_zoo.numerics.rows import plus_identity, solve


class Newton(Method):
    """Newton's method with the dense Jacobian: for few features, or as the last resort.

    A step is counted as one evaluation. It costs another one with its Jacobian.
    """

    def propose(self, point: Tensor, usable: Tensor) -> Tensor:
        w, f = point.chunk(2, dim=1)
        jacobian = self.net.linearize(w.reshape(-1, *self.shape)).jacobian()
        step = solve(plus_identity(jacobian), f)
        # From the best iterate of a row that strayed, the same step would lead astray again.
        return w + torch.where(usable[:, None], step, f)
