"""The linear systems `(I + J)^T u = t` behind derivatives, one for each row of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from impflow_zoo.numerics import dense
from impflow_zoo.numerics.bound import Linearization
from impflow_zoo.numerics.krylov import MAX_RESTARTS, Krylov, solve_linear
from impflow_zoo.numerics.rows import norm
from impflow_zoo.numerics.solver import DENSE, refuse

ROUNDING = 16.0  # how many eps rounding may add up to in a dense solution


@dataclass(frozen=True)
class Solved:
    """What came of the systems.

    Arguments:
        u: the solutions, with the shape of the right-hand sides.
        residual: `|t - (I + J)^T u| / |t|` of each row, `[B]`.
        failed: rows whose residual exceeds the tolerance, `[B]`.
        products: products with the Jacobian that Krylov spaces took.
        rtol: the tolerance.
    """

    u: Tensor
    residual: Tensor
    failed: Tensor
    products: int
    rtol: float

    def refuse(self, failed: Tensor, name: str, advice: str, *, training: bool) -> None:
        """Raise `SolverError` over the rows `failed`, `[B]`; in training warn instead.

        Arguments:
            failed: these rows.
            name: of the derivative.
            advice: what the user may change.
        """
        worst = float(self.residual[failed].nan_to_num(1e30).amax())
        refuse(
            f"{name} of {int(failed.sum())} of {len(failed)} rows did not converge: worst relative "
            f"residual {worst:.2e}, tolerance {self.rtol:.2e} after {self.products} products. "
            f"{advice}",
            training=training,
        )


def solve_transposed(
    point: Linearization, t: Tensor, rtol: float, *, start: Krylov | None = None
) -> Solved:
    """Solve in Krylov spaces, and by dense Jacobians the rows of few features that are left.

    Arguments:
        point: the net at the point.
        t: right-hand sides, `[B, ...]`.
        rtol: largest relative residual of a row.
        start: the Krylov space of `t`, if it is there already.
    """
    small = point.features <= DENSE
    restarts = 1 if small else MAX_RESTARTS  # then dense Jacobians cost less
    u, residual, products = solve_linear(point.vjp, t, rtol, start=start, restarts=restarts)
    failed = ~(residual <= rtol)
    if small and bool(failed.any()):
        rows = failed.nonzero()[:, 0]
        dense_u, residual[rows], floor = _solve_densely(point, t.flatten(1), rows)
        u = u.clone()
        u.view(len(u), -1)[rows] = dense_u
        # Where rounding leaves more than that, the matrix is singular.
        excused = torch.where(floor <= 1e-3, floor, 0.0).clamp(min=rtol)
        failed[rows] = ~(residual[rows] <= excused)
    return Solved(u, residual, failed, products, rtol)


def _solve_densely(point: Linearization, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Some rows solved by their dense Jacobians: `u`, its relative residual, and rounding's share.

    Plain rounding leaves a residual of some eps times the size of the two terms of `u + J^T u`.
    """
    eps = torch.finfo(t.dtype).eps
    right = t[rows]
    transposed = dense.plus_identity(point.jacobian_of(rows)).mT
    u = dense.solve(transposed, right)
    rest = (transposed @ u[..., None])[..., 0] - right
    size = norm(right).clamp(min=torch.finfo(t.dtype).tiny)
    return u, norm(rest) / size, ROUNDING * eps * (1 + norm(u) / size)
