"""Arnoldi's method on many small problems at once: one Krylov subspace per row.

From products `A q` it computes, for each row's matrix `I + A`, the solution of `(I + A) u = v`
(full orthogonalisation method) and the form `v^T log(I + A) v`. For `|A| < 1` both exist and the
projected systems are never singular. In `m` dimensions the form has the exact first `m` terms of
the power series of the logarithm, and approximates later terms by the projection of `A`. It is
differentiable if the products are and the subspace was built as `differentiable`.

References:
    Iterative Methods for Sparse Linear Systems, 2nd ed., sections 6.3-6.4 (Saad, 2003)
    https://doi.org/10.1137/1.9780898718003
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from impflow_zoo.numerics.rows import dot, norm

MAX_RESTARTS = 20


@dataclass(frozen=True)
class Krylov:
    """A Krylov subspace of each row."""

    solution: Tensor  # approximations `u` of `(I + A)^-1 v`, with the shape of `v`
    residual: Tensor  # `|v - (I + A) u|` of each row, `[B]`
    columns: list[list[Tensor]]  # of the projection `H` of `A`, to the subdiagonal, `[B]` each
    dims: Tensor  # dimension of each row's own space, `[B]`
    all_dims: Tensor  # `dims`, extended to full size where differentiation needs it, `[B]`
    size: Tensor  # `|v|` of each row, `[B]`

    @property
    def products(self) -> int:
        """How often `A` was applied."""
        return len(self.columns)

    def hessenberg(self, dims: Tensor | None = None) -> Tensor:
        """`H` in the first `dims` vectors of a row, by default all it has, and 0; `[B, m, m]`."""
        m, zero = self.products, torch.zeros_like(self.size)
        dims = self.dims if dims is None else dims
        columns = [torch.stack([*column, *[zero] * m][:m], dim=1) for column in self.columns]
        inside = torch.arange(m, device=zero.device) < dims[:, None]
        return torch.stack(columns, dim=2) * (inside[:, None] & inside[..., None])

    def log_form(
        self, rtol: float, *, dims: Tensor | None = None, terms: int | None = None
    ) -> Tensor:
        """`v^T log(I + A) v` of each row, `[B]`, by the power series of the projection.

        NaN for rows where the series does not converge, as `|A| < 1` guarantees it does. A row
        stops on its own terms: the first one left out is below `rtol |v|^2`, or `terms` are taken.
        """
        total = torch.zeros_like(self.size)
        if not self.products:  # nothing but zero vectors, or no rows at all
            return total
        h = -self.hessenberg(dims)
        power = torch.zeros_like(h[:, 0])
        power[:, 0] = 1
        rest = torch.ones_like(self.size, dtype=torch.bool)
        for k in range(1, (100_000 if terms is None else terms) + 1):
            power = (h * power[:, None]).sum(-1)
            total = torch.where(rest, torch.sub(total, power[:, 0], alpha=1 / k), total)
            largest = power.detach().abs().amax(dim=1)
            rest = rest & (largest > rtol * k)
            # No power of a contraction is that large.
            if k % 8 == 0 and not bool((rest & (largest < 1e3)).any()):
                break
        if terms is not None:
            # Contractions in the 1-norm or the maximum norm stretch 2-norms by so much at most.
            rest = norm(power.detach()) > self.solution[0].numel() ** 0.5
        return torch.where(rest | total.isinf(), torch.nan, total) * self.size**2

    def log_form_bound(self, kappa: float) -> Tensor:
        """A bound of the error of `log_form` where `|A| <= kappa < 1`, `[B]`, short of rounding.

        `log(I + A)` is the integral of `A (I + t A)^-1` over `t` from 0 to 1. The space solves
        `(I + t A) u = v` with a residual of norm `t h |y_m| |v|`, where `h` is the last entry
        below the diagonal and `(I + t H) y = e_1`; the form inherits at most `1 / (1 - t kappa)`
        times as much. The trapezoidal rule with 17 points stands for the integral.
        """
        if not self.products:
            return torch.zeros_like(self.size)
        m, h = self.products, self.hessenberg().detach()
        t = torch.linspace(0, 1, 17, dtype=h.dtype, device=h.device)
        identity = torch.eye(m, dtype=h.dtype, device=h.device)
        first = identity[:, :1].expand(len(t), len(h), m, 1)
        y = torch.linalg.solve(identity + t[:, None, None, None] * h, first)[..., 0]
        own = (self.dims - 1).clamp(min=0).expand(len(t), -1)[..., None]
        last = y.gather(2, own)[..., 0].abs()
        # At `t = 1` the residual is known.
        integrand = last / last[-1].clamp(min=torch.finfo(h.dtype).tiny)
        integrand = integrand / (1 - t * kappa)[:, None]
        return torch.trapezoid(integrand, t, dim=0) * self.residual * self.size


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
    product: Callable[[Tensor], Tensor],
    v: Tensor,
    rtol: float | Tensor,
    max_dim: int = 60,
    *,
    differentiable: bool = False,
) -> Krylov:
    """Build the Krylov subspace of `v` until `(I + A) u = v` is solved to `rtol |v|` in each row.

    `product` applies `A` to every row, `[B, ...] -> [B, ...]`; `rtol` is one number for all rows or
    one for each. A row is finished when it reaches `rtol` or has `max_dim` vectors. A
    `differentiable` subspace that is complete earlier continues to `max_dim`, so that the form has
    the right derivatives of all these terms: the next vector is the remainder of a product, which
    is zero, but whose derivative is not.
    """
    dim = min(max_dim, v.flatten(1).shape[1])
    eps = torch.finfo(v.dtype).eps
    size = norm(v)
    basis = [v.flatten(1) * _inverse(size)]
    columns: list[list[Tensor]] = []
    factors = _Factors(size)
    residual, done = size, size == 0
    ended = closed = torch.zeros_like(done)
    dims = torch.zeros_like(done, dtype=torch.long)
    while len(columns) < dim and not bool((done & ~closed).all()):
        w = product(basis[-1].view_as(v)).flatten(1)
        length = norm(w.detach())
        column = []
        for q in basis:
            column.append(dot(q, w))
            w = torch.addcmul(w, column[-1][:, None], q, value=-1)
        left = norm(w.detach())
        ended = ended | ~(left > 10 * eps * length)
        if differentiable:  # norms have no second derivative at zero
            left = norm(torch.where(ended[:, None], 1, w))
        left = torch.where(ended, 0, left)
        error = factors.append([entry.detach() for entry in (*column, left)])
        columns.append([*column, torch.where(ended, 1, left) if differentiable else left])
        now = ~done if len(columns) == dim else ~done & (error <= rtol * size)
        residual = torch.where(now, error, residual)
        dims = torch.where(now, len(columns), dims)
        done = done | now
        if differentiable:
            closed = closed | (now & (left <= 1e-2 * length))
        if len(columns) < dim:
            unit = w * _inverse(left)
            basis.append(torch.where(ended[:, None], w, unit) if differentiable else unit)
    solution = torch.zeros_like(basis[0])
    for weight, q in zip(factors.solve(dims), basis, strict=False):
        solution.addcmul_(weight[:, None], q.detach())
    all_dims = torch.where(closed, len(columns), dims)
    return Krylov(solution.view_as(v), residual, columns, dims, all_dims, size)


def _inverse(size: Tensor) -> Tensor:
    """`1 / size` as a column, 0 where the size is."""
    positive = size > 0
    return torch.where(positive, 1 / torch.where(positive, size, 1), 0)[:, None]


def solve_linear(
    product: Callable[[Tensor], Tensor],
    v: Tensor,
    rtol: float,
    *,
    start: Krylov | None = None,
    restarts: int = MAX_RESTARTS,
) -> tuple[Tensor, Tensor, int]:
    """Solve `(I + A) u = v` in every row, with restarts if one Krylov subspace is not enough.

    Arguments are those of `arnoldi`; `start` is the subspace of `v`, if it exists already. Restarts
    end early if no row gains by them. Returns the solutions, the relative residuals `[B]` and the
    number of products.
    """
    space = arnoldi(product, v, rtol) if start is None else start
    u, residual, products = space.solution, space.residual, space.products
    target = rtol * space.size
    finest, tiny = 8 * torch.finfo(v.dtype).eps, torch.finfo(v.dtype).tiny
    rests = torch.full_like(space.size, math.inf)
    for _ in range(restarts):
        open_rows = residual > target
        if not bool(open_rows.any()):
            break
        mask = open_rows.view(-1, *[1] * (v.dim() - 1))
        rest = torch.where(mask, v - u - product(u), torch.zeros_like(v))
        length = norm(rest)
        if not bool((open_rows & (length <= 0.8 * rests)).any()):
            break  # as many restarts as are allowed would not do
        rests = length
        share = (target / length.clamp(min=tiny)).clamp(finest, 0.5)
        space = arnoldi(product, rest, share)
        u = u + space.solution
        residual = torch.where(open_rows, space.residual, residual)
        products += space.products + 1
    return u, residual / norm(v).clamp(min=tiny), products
