"""Arnoldi's method on many small problems at once: one Krylov space per row.

With the products `A q` alone it answers two questions about each row's matrix `I + A`: the
solution of `(I + A) u = v` (full orthogonalisation method) and the form `v^T log(I + A) v`.
For `|A| < 1` both exist and the projected systems are never singular. The form of `m` dimensions
has the first `m` terms of the power series of the logarithm right, and the later ones as the
projection of `A` continues them. It is differentiable where the products are.

References:
    Iterative Methods for Sparse Linear Systems, 2nd ed., sections 6.3-6.4 (Saad, 2003)
    https://doi.org/10.1137/1.9780898718003
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from impflow_zoo.numerics.rows import dot, norm

__all__ = ["Krylov", "arnoldi", "solve_linear"]

_MAX_DIM = 60  # vectors kept before a restart: a bound on memory
_MAX_RESTARTS = 20
_MAX_TERMS = 100_000  # of the series of a projection
_DIVERGED = 1e3  # growth of a power of the projection that no contraction reaches
_SHIFTS = 16  # of the quadrature in the bound of a form's error


@dataclass(frozen=True)
class Krylov:
    """What a Krylov space of each row has to say.

    Arguments:
        solution: approximations `u` of `(I + A)^-1 v`, with the shape of `v`.
        residual: `|v - (I + A) u|` of each row, `[B]`.
        before: what it was with one dimension less, `[B]`.
        columns: the projection `H` of `A` in the basis of each row, column by column, the entries
            down to the one below the diagonal, `[B]` each.
        dims: dimension of each row's own space, `[B]`.
        size: `|v|` of each row, `[B]`.
    """

    solution: Tensor
    residual: Tensor
    before: Tensor
    columns: list[list[Tensor]]
    dims: Tensor
    size: Tensor

    @property
    def products(self) -> int:
        """How often `A` was applied."""
        return len(self.columns)

    def hessenberg(self, *, less: int = 0) -> Tensor:
        """`H`, zero outside of each row's own space, `[B, m, m]`.

        Arguments:
            less: take this many dimensions off every space.
        """
        m, zero = self.products, torch.zeros_like(self.size)
        columns = [torch.stack([*column, *[zero] * m][:m], dim=1) for column in self.columns]
        inside = torch.arange(m, device=zero.device) < self.dims[:, None] - less
        return torch.stack(columns, dim=2) * (inside[:, None] & inside[..., None])

    def log_form(self, rtol: float, *, less: int = 0) -> Tensor:
        """`v^T log(I + A) v` of each row, `[B]`, by the power series of the projection.

        NaN for rows where the series does not converge, as `|A| < 1` guarantees it does. A row
        stops on its own terms.

        Arguments:
            rtol: size of the first term left out, relative to `|v|^2`.
            less: as in `hessenberg`.
        """
        total = torch.zeros_like(self.size)
        if not self.products:  # nothing but zero vectors, or no rows at all
            return total
        h = -self.hessenberg(less=less)
        power = torch.zeros_like(h[:, 0])
        power[:, 0] = 1
        rest = torch.ones_like(self.size, dtype=torch.bool)
        for k in range(1, _MAX_TERMS):
            power = (h * power[:, None]).sum(-1)
            total = torch.where(rest, total - power[:, 0] / k, total)
            largest = power.detach().abs().amax(dim=1)
            rest = rest & (largest > rtol * k)
            if not bool((rest & (largest < _DIVERGED)).any()):
                break
        return torch.where(rest, torch.nan, total) * self.size**2

    def log_form_bound(self, kappa: float) -> Tensor:
        """A bound of the error of `log_form` where `|A| <= kappa < 1`, `[B]`, short of rounding.

        `log(I + A)` is the integral of `A (I + t A)^-1` over `t` from 0 to 1. The space solves
        `(I + t A) u = v` with a residual of norm `t h |y_m| |v|`, where `h` is the last entry
        below the diagonal and `(I + t H) y = e_1`; the form inherits at most `1 / (1 - t kappa)`
        times as much. The trapezoidal rule does not fall short of this convex integrand.
        """
        if not self.products:
            return torch.zeros_like(self.size)
        m, h = self.products, self.hessenberg().detach()
        t = torch.linspace(0, 1, _SHIFTS + 1, dtype=h.dtype, device=h.device)
        identity = torch.eye(m, dtype=h.dtype, device=h.device)
        first = identity[:, :1].expand(len(t), len(h), m, 1)
        y = torch.linalg.solve(identity + t[:, None, None, None] * h, first)[..., 0]
        rows, last = torch.arange(len(h), device=h.device), (self.dims - 1).clamp(min=0)
        below = torch.stack([column[-1].detach() for column in self.columns], dim=1)[rows, last]
        integrand = y[:, rows, last].abs() / (1 - t * kappa)[:, None]
        return torch.trapezoid(integrand, t, dim=0) * below * self.size**2


class _Factors:
    """`I + H = L U`, grown by one column at a time, and `L z = |v| e_1`.

    Pivoting would cost a factorisation in every step. The symmetric part of `I + H` is positive
    definite for `|A| < 1`, which does without.
    """

    def __init__(self, size: Tensor) -> None:
        self.lower: list[Tensor] = []
        self.upper: list[list[Tensor]] = []
        self.z = [size]

    def append(self, column: list[Tensor]) -> Tensor:
        """Take the next column; the residual that the solution in this space has, `[B]`."""
        *above, below = column
        above[-1] = above[-1] + 1
        for i, factor in enumerate(self.lower):
            above[i + 1] = above[i + 1] - factor * above[i]
        self.upper.append(above)
        self.lower.append(below / above[-1])
        last = self.z[-1]
        self.z.append(-self.lower[-1] * last)
        return self.z[-1].abs()

    def solve(self, dims: Tensor) -> list[Tensor]:
        """The coefficients of the solution in the first `dims` vectors of each row, `[B]` each."""
        m = len(self.upper)
        y = [torch.zeros_like(self.z[0])] * m
        for j in range(m - 1, -1, -1):
            rest = self.z[j]
            for i in range(j + 1, m):
                rest = rest - self.upper[i][j] * y[i]
            y[j] = torch.where(j < dims, rest / self.upper[j][j], 0)
        return y


def arnoldi(
    product: Callable[[Tensor], Tensor], v: Tensor, rtol: float, max_dim: int = _MAX_DIM
) -> Krylov:
    """Build the Krylov space of `v` until `(I + A) u = v` is solved to `rtol |v|` in each row.

    Arguments:
        product: applies `A` to every row, `[B, ...] -> [B, ...]`.
        v: right-hand sides, with shape `[B, ...]`.
        rtol: relative tolerance; a row's answer is fixed once it is reached.
        max_dim: largest dimension of the space.
    """
    dim = min(max_dim, v.flatten(1).shape[1])
    eps = torch.finfo(v.dtype).eps
    size = norm(v)
    basis = [v.flatten(1) * _inverse(size)]
    columns: list[list[Tensor]] = []
    factors = _Factors(size)
    residual, before, done = size, size, size == 0
    dims = torch.zeros_like(done, dtype=torch.long)
    while len(columns) < dim and not bool(done.all()):
        w = product(basis[-1].view_as(v)).flatten(1)
        length = norm(w)
        column = []
        for q in basis:
            column.append(dot(q, w))
            w = torch.addcmul(w, column[-1][:, None], q, value=-1)
        left = norm(w)
        left = torch.where(left > 10 * eps * length, left, 0)
        columns.append([*column, left])
        error = factors.append([entry.detach() for entry in columns[-1]])
        now = ~done if len(columns) == dim else ~done & (error <= rtol * size)
        residual = torch.where(now, error, residual)
        before = torch.where(now, factors.z[-2].abs(), before)
        dims = torch.where(now, len(columns), dims)
        done = done | now
        if len(columns) < dim:
            basis.append(w * _inverse(left))
    solution = torch.zeros_like(basis[0])
    for weight, q in zip(factors.solve(dims), basis, strict=False):
        solution.addcmul_(weight[:, None], q.detach())
    return Krylov(solution.view_as(v), residual, before, columns, dims, size)


def _inverse(size: Tensor) -> Tensor:
    """`1 / size` as a column, 0 where the size is."""
    positive = size > 0
    return torch.where(positive, 1 / torch.where(positive, size, 1), 0)[:, None]


def solve_linear(
    product: Callable[[Tensor], Tensor], v: Tensor, rtol: float
) -> tuple[Tensor, Tensor, int]:
    """Solve `(I + A) u = v` in every row, restarting where one Krylov space was not enough.

    Returns:
        The solutions, the relative residuals `[B]` and the number of products.
    """
    space = arnoldi(product, v, rtol)
    u, residual, products = space.solution, space.residual, space.products
    target = rtol * space.size
    for _ in range(_MAX_RESTARTS):
        open_rows = residual > target
        if not bool(open_rows.any()):
            break
        mask = open_rows.view(-1, *[1] * (v.dim() - 1))
        rest = torch.where(mask, v - u - product(u), torch.zeros_like(v))
        share = float((target / norm(rest).clamp(min=torch.finfo(v.dtype).tiny))[open_rows].min())
        space = arnoldi(product, rest, min(max(share, 8 * torch.finfo(v.dtype).eps), 0.5))
        u = u + space.solution
        residual = torch.where(open_rows, space.residual, residual)
        products += space.products + 1
    return u, residual / norm(v).clamp(min=torch.finfo(v.dtype).tiny), products
