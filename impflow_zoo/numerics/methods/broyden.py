"""Broyden's method: `w + H f` with the residual `f = y - w - g(w)` and `H` close to `(I + J)^-1`.

After a step `s` with the change `-v` of the residual `H` has to satisfy `H v = s`, as `(I + J)^-1`
does for a linear `g`. Of all matrices whose inverse does, Broyden's is the one whose inverse
changes least: `H + (s - H v) s^T H / (s^T H v)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from impflow_zoo.numerics.methods.base import Method
from impflow_zoo.numerics.rows import dot


class Broyden(Method):
    """Broyden's first method on `w + g(w) - y`, starting from the identity.

    The inverse Jacobian is `I + sum_i a_i b_i^T`, one rank a step (Sherman-Morrison).

    References:
        A Class of Methods for Solving Nonlinear Simultaneous Equations (Broyden, 1965)
        https://doi.org/10.1090/S0025-5718-1965-0198670-6
    """

    memory = 30
    ranks: Sequence[tuple[Tensor, Tensor]] = ()

    def propose(self, point: Tensor, usable: Tensor) -> Tensor:
        if self.last is not None:
            kept = usable[:, None]
            self.ranks = [(a * kept, b * kept) for a, b in self.ranks]
            self._remember(*self.step(point).chunk(2, dim=1))
        self.last = point
        f = point.chunk(2, dim=1)[1]
        more = torch.zeros_like(f)
        for a, b in self.ranks:
            more = more + a * dot(b, f)[:, None]
        return super().propose(point, usable) + more

    def _remember(self, s: Tensor, df: Tensor) -> None:
        """Take the rank that a step `s` and the difference of residuals give."""
        if len(self.ranks) == self.memory:
            self.ranks = []
        y = -df
        transposed, forward = s, y  # H^T s and H y, with H the inverse Jacobian so far
        for a, b in self.ranks:
            transposed = transposed + b * dot(a, s)[:, None]
            forward = forward + a * dot(b, y)[:, None]
        curvature = dot(s, forward)[:, None]
        usable = curvature.abs() > torch.finfo(s.dtype).eps * dot(s, s)[:, None]
        safe = torch.where(usable, curvature, 1)
        self.ranks = [*self.ranks, ((s - forward) / safe * usable, transposed * usable)]

    def keep(self, index: Tensor) -> None:
        super().keep(index)
        self.ranks = [(a[index], b[index]) for a, b in self.ranks]
