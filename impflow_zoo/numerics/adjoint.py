"""The linear systems `(I + J)^T u = t` behind derivatives, one for each row of a batch.

For `|J| <= kappa < 1` their solutions have lengths between `|t| / (1 + kappa)` and `|t| / (1 -
kappa)`. A few features, or Jacobians that somebody has paid for, are solved densely. Else products
`J^T q` span a Krylov subspace, which stops at a residual relative to `|t|`, so that the scale of a
loss does not turn its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from impflow_zoo.numerics.folded import Point
from impflow_zoo.numerics.krylov import MAX_RESTARTS, Krylov, solve_linear
from impflow_zoo.numerics.rows import norm, plus_identity, solve
from impflow_zoo.numerics.solver import DENSE, FEW_FEATURES, refuse

_ROUNDING = 16.0  # how many eps times `|u|` rounding may leave of a residual


@dataclass(frozen=True)
class Solved:
    """The solutions of the systems."""

    u: Tensor  # the solutions, with the shape of the right-hand sides
    residual: Tensor  # `|t - (I + J)^T u| / |t|`, `[B]`; an estimate for dense solutions
    failed: Tensor  # rows that were not solved, `[B]`
    products: int  # with the Jacobian, that Krylov spaces took
    rtol: float

    def refuse(self, failed: Tensor, name: str, setting: str, *, training: bool) -> None:
        """Raise `SolverError` over rows, `[B]`, naming derivative and tolerance; or warn."""
        worst = float(self.residual[failed].nan_to_num(1e30).amax())
        refuse(
            f"{name} of {int(failed.sum())} of {len(failed)} rows did not converge: worst relative "
            f"residual {worst:.2e}, tolerance {self.rtol:.2e} after {self.products} products. "
            f"Loosen {setting}; if I + J is singular, the net must be a contraction",
            training=training,
        )


def solve_transposed(
    point: Point, t: Tensor, rtol: float, *, start: Krylov | None = None
) -> Solved:
    """Solve by dense Jacobians that are known or small; else in Krylov subspaces, to `rtol |t|`.

    Rows that Krylov subspaces do not solve use dense Jacobians if they have not too many features.
    Rows whose solution has no correct digit because of rounding fail. `start` is the Krylov
    subspace of `t`, if it exists already.
    """
    size, dense = norm(t), point.known_jacobian is not None
    valid = (size > 0) & (size < torch.inf)
    rounding = _ROUNDING * torch.finfo(t.dtype).eps / size
    if start is None and (dense or point.features <= FEW_FEATURES):
        u = _solve_densely(point.jacobian(), t)
        residual = norm(u) * rounding
        return Solved(u, residual, valid & ~(residual <= 1), 0, rtol)
    small = point.features <= DENSE
    restarts = 1 if small else MAX_RESTARTS  # then dense Jacobians cost less
    u, residual, products = solve_linear(point.vjp, t, rtol, start=start, restarts=restarts)
    failed = ~(residual <= rtol)
    if small and bool(failed.any()):
        rows = failed.nonzero()[:, 0]
        u = u.clone()
        u[rows] = _solve_densely(point.jacobian_of(rows), t[rows])
        residual[rows] = (norm(u) * rounding)[rows]
        failed[rows] = ~(residual[rows] <= 1e-3)  # beyond that the matrix is singular
    return Solved(u, residual, valid & (failed | ~(norm(u) * rounding <= 1)), products, rtol)


def _solve_densely(jacobian: Tensor, t: Tensor) -> Tensor:
    return solve(plus_identity(jacobian).mT, t.flatten(1)).view_as(t)
