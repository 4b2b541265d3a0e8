"""Steps towards the root of `w + g(w) = y`, one class per method.

A method proposes the next iterate of every row from the current one and its residual
`f = y - w - g(w)`. It owns nothing else: budget, tolerance, finiteness and the choice of rows
belong to the loop in `search.py`. Each row has its own memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from impflow_zoo.numerics.dense import solve
from impflow_zoo.numerics.linearize import Linearization, linearize
from impflow_zoo.numerics.rows import Net, all_finite, call, dot, norm, select

__all__ = ["METHODS", "Anderson", "Broyden", "Method", "Newton", "PlainIteration"]


class Method:
    """Interface and shared state: the net, the contexts of the rows, the last iterate."""

    trial = 1  # steps over which the loop measures contraction before it may hand a row over

    def __init__(self, g: Net, context: Tensor | None) -> None:
        self.g = g
        self.context = context

    def evaluate(self, w: Tensor) -> Tensor:
        """`g(w)` in the type of `w`, no graph."""
        return call(self.g, w, self.context).to(w.dtype)

    def propose(self, w: Tensor, f: Tensor) -> Tensor:
        """The next iterate from the current one and its residual, `[B, d]` each."""
        raise NotImplementedError(f"{type(self).__name__} has to define its step")

    def forget(self, rows: Tensor) -> None:
        """Drop the memory of the rows where the mask `[B]` is true."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given by their indices."""
        self.context = select(self.context, rows)


class PlainIteration(Method):
    """`w <- y - g(w)`, which is `w + f`: contracts by the Lipschitz constant of `g` a step."""

    def propose(self, w: Tensor, f: Tensor) -> Tensor:
        return w + f


class _Secant(Method):
    """Methods that remember the latest differences of iterates and residuals."""

    memory: int

    def __init__(self, g: Net, context: Tensor | None) -> None:
        super().__init__(g, context)
        self.last: tuple[Tensor, Tensor] | None = None
        self.dw: list[Tensor] = []
        self.df: list[Tensor] = []

    def differences(self, w: Tensor, f: Tensor) -> tuple[Tensor, Tensor] | None:
        """Steps of iterate and residual since the last call."""
        last, self.last = self.last, (w, f)
        if last is None:
            return None
        dw, df = w - last[0], f - last[1]
        if not (all_finite(df) and all_finite(dw)):
            # A row that left the finite numbers has no difference to learn from.
            dw, df = (torch.nan_to_num(t, 0.0, 0.0, 0.0) for t in (dw, df))
        return dw, df

    def push(self, a: Tensor, b: Tensor) -> None:
        self.dw, self.df = [*self.dw, a][-self.memory :], [*self.df, b][-self.memory :]

    def forget(self, rows: Tensor) -> None:
        dropped = rows[:, None]
        self.dw, self.df = ([t.masked_fill(dropped, 0) for t in ts] for ts in (self.dw, self.df))

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.dw, self.df = ([t[rows] for t in ts] for ts in (self.dw, self.df))
        if self.last is not None:
            self.last = (self.last[0][rows], self.last[1][rows])


class Anderson(_Secant):
    """Anderson mixing: the step from the combination of past iterates of least residual.

    References:
        Iterative Procedures for Nonlinear Integral Equations (Anderson, 1965)
        https://doi.org/10.1145/321296.321305
    """

    memory = 5
    trial = 12

    def propose(self, w: Tensor, f: Tensor) -> Tensor:
        step = self.differences(w, f)
        if step is not None:
            # Scaled to unit residual steps: the normal equations then have a unit diagonal.
            size = norm(step[1])[:, None]
            scale = (1 / size).masked_fill_(size == 0, 0)
            self.push(step[0] * scale, step[1] * scale)
        if not self.df:
            return w + f
        dw = torch.stack(self.dw[-w.shape[1] :], dim=1)  # [B, m, d]
        df = torch.stack(self.df[-w.shape[1] :], dim=1)
        # Products of small matrices, as torch sums short dimensions slowly; autocast would round.
        with torch.autocast(w.device.type, enabled=False):
            gram = df @ df.mT
            gram.diagonal(dim1=1, dim2=2).add_(10 * torch.finfo(w.dtype).eps)
            weights = solve(gram, (df @ f[..., None])[..., 0])
            return w + f - (weights[:, None] @ dw.add_(df))[:, 0]


class Broyden(_Secant):
    """Broyden's first method on `w + g(w) - y`, starting from the identity.

    The inverse Jacobian is `I + sum_i a_i b_i^T`, one rank a step (Sherman-Morrison).

    References:
        A Class of Methods for Solving Nonlinear Simultaneous Equations (Broyden, 1965)
        https://doi.org/10.1090/S0025-5718-1965-0198670-6
    """

    memory = 30

    def propose(self, w: Tensor, f: Tensor) -> Tensor:
        step = self.differences(w, f)
        if step is not None:
            if len(self.dw) == self.memory:
                self.dw, self.df = [], []
            s, y = step[0], -step[1]
            transposed = s.clone()  # H^T s
            forward = y.clone()  # H y
            for a, b in zip(self.dw, self.df, strict=True):
                transposed += b * dot(a, s)[:, None]
                forward += a * dot(b, y)[:, None]
            curvature = dot(s, forward)[:, None]
            usable = curvature.abs() > torch.finfo(w.dtype).eps * dot(s, s)[:, None]
            safe = torch.where(usable, curvature, torch.ones_like(curvature))
            self.push((s - forward) / safe * usable, transposed * usable)
        direction = f.clone()
        for a, b in zip(self.dw, self.df, strict=True):
            direction += a * dot(b, f)[:, None]
        return w + direction


class Newton(Method):
    """Newton's method with the dense Jacobian: for few features, or as the last resort."""

    def __init__(self, g: Net, context: Tensor | None) -> None:
        super().__init__(g, context)
        self.point: Linearization | None = None
        self.rows: Tensor | None = None

    def evaluate(self, w: Tensor) -> Tensor:
        self.point, self.rows = linearize(self.g, w, self.context), None
        return self.point.value.detach()

    def propose(self, w: Tensor, f: Tensor) -> Tensor:
        assert self.point is not None
        jacobian = self.point.jacobian()
        if self.rows is not None:
            jacobian = jacobian[self.rows]
        identity = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
        return w + solve(identity + jacobian, f)

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.rows = rows if self.rows is None else self.rows[rows]


METHODS: dict[str, type[Method]] = {
    "fixed_point": PlainIteration,
    "anderson": Anderson,
    "broyden": Broyden,
    "newton": Newton,
}
