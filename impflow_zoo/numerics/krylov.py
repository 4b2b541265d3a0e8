"""Arnoldi's method on many small problems at once: one Krylov subspace per row.

From products `A q` it computes, for each row's matrix `I + A`, the solution of `(I + A) u = v`
(full orthogonalisation method) and the form `v^T log(I + A) v`. In exact arithmetic

    A Q_m = Q_m H_m + h q_(m+1) e_m^T,    q_1 = v / |v|

with orthonormal columns `Q_m`, `H_m` upper Hessenberg and `h` the entry below its last one. So

    u is about Q_m y with (I + H_m) y = |v| e_1,    and v - (I + A) u = -h y_m q_(m+1)
    v^T log(I + A) v is about |v|^2 e_1^T log(I + H_m) e_1

For `|A| < 1` both exist, and as `|H_m| <= |A|` the projected systems are never singular. The first
`m` terms of the power series of the form are exact, as `v^T A^k v = |v|^2 e_1^T H_m^k e_1` for
`k <= m`; later ones are approximated. The form is differentiable if the products are and the
subspace was built as `differentiable`.

References:
    Iterative Methods for Sparse Linear Systems, 2nd ed., sections 6.3-6.4 (Saad, 2003)
    https://doi.org/10.1137/1.9780898718003
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.numerics.modes import seen
from impflow_zoo.numerics.rows import norm

MAX_RESTARTS = 20


@dataclass(frozen=True)
class Krylov:
    """A Krylov subspace of each row."""

    solution: Tensor  # approximations `u` of `(I + A)^-1 v`, with the shape of `v`
    residual: Tensor  # `|v - (I + A) u|` of each row, `[B]`
    columns: list[Tensor]  # of the projection `H` of `A`, to the subdiagonal, `[k + 1, B]` each
    dims: Tensor  # dimension of each row's own space, `[B]`
    all_dims: Tensor  # `dims`, extended to full size where differentiation needs it, `[B]`
    size: Tensor  # `|v|` of each row, `[B]`

    @property
    def products(self) -> int:
        """How often `A` was applied."""
        return len(self.columns)

    def hessenberg(self, dims: Tensor | None = None) -> Tensor:
        """`H` in the first `dims` vectors of a row, by default all it has, and 0; `[B, m, m]`."""
        dims = self.dims if dims is None else dims
        inside = torch.arange(self.products, device=dims.device) < dims[:, None]
        padded = [
            functional.pad(c, (0, 0, 0, self.products))[: self.products] for c in self.columns
        ]
        return torch.stack(padded, dim=1).permute(2, 0, 1) * (inside[:, None] & inside[..., None])

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
            if k % 8 == 0 and not bool(seen(rest & (largest < 1e3)).any()):
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


class _Basis:
    """Orthonormal vectors of each row, `[B, m, d]`; vector by vector in memory, `[m, B, d]`.

    Libraries multiply batches of such small matrices slowly; sums of products are faster.
    Room for vectors is doubled when it is used up. Within a graph nothing is written in place, and
    the vectors have as much room as they need.

    Arguments:
        first: the first vector of each row, `[B, d]`.
        passes: of the orthogonalisation of later ones.
        differentiable: within a graph.
    """

    def __init__(self, first: Tensor, passes: int, *, differentiable: bool) -> None:
        self.passes, self._differentiable = passes, differentiable
        self._room = self.vectors = first[None]

    def append(self, q: Tensor) -> None:
        """Take one vector more of each row, `[B, d]`."""
        count = len(self.vectors)
        if self._differentiable:
            self.vectors = torch.cat((self.vectors, q[None]))
            return
        if count == len(self._room):
            self._room = q.new_empty(max(8, 2 * count), *q.shape)
            self._room[:count] = self.vectors
        self._room[count] = q
        self.vectors = self._room[: count + 1]

    def split(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients of vectors, `[B, d]`, in the basis, `[m, B]`, and what is left."""
        total = None
        for _ in range(self.passes):
            h = (self.vectors * w).sum(dim=2)
            w = w - self.combine(h)
            total = h if total is None else total + h
        assert total is not None
        return total, w

    def combine(self, weights: Tensor) -> Tensor:
        """Sums of the first vectors with these weights, `[k, B] -> [B, d]`."""
        return (weights[..., None] * self.vectors[: len(weights)]).sum(dim=0)


class _Factors:
    """`I + H = L U` in a growing subspace, as far as it is needed, and `L z = |v| e_1`.

    `L` has ones and, below them, entries `l_i`. The row `p = (p_1, ..., p_m)` with `p_1 = 1` and
    `p (I + H_m) = -h p_(m+1) e_m^T` is the last one of its inverse: so one inner product with a new
    column gives the next pivot `u = (p (I + H_m))_m / p_m`, and `l_m = h / u`. As
    `z_(m+1) = -l_m z_m` and `y_m = z_m / u`, the residual `|h y_m|` of the solution is
    `|z_(m+1)|`. The entries of `p` grow without bound; the ratios `p_i / p_m` do not.

    Pivoting is not needed: the symmetric part of `I + H` is positive definite for `|A| < 1`.
    """

    def __init__(self, size: Tensor) -> None:
        self.z, self.lower, self.pivots = [size], list[Tensor](), list[Tensor]()
        self._one = torch.ones_like(size)[None]
        self._ratios = self._one

    def append(self, column: Tensor) -> Tensor:
        """Take the next column of `H`, `[m + 1, B]`; the residual, `[B]`."""
        pivot = torch.add((self._ratios * column[:-1]).sum(dim=0), 1)  # `p_m / p_m = 1`
        minus = column[-1] / -pivot
        self._ratios = torch.cat((self._ratios * minus, self._one))
        self.pivots.append(pivot)
        self.lower.append(minus)
        self.z.append(minus * self.z[-1])
        return self.z[-1].abs()

    def solve(self, columns: list[Tensor], inside: Tensor) -> Tensor:
        """`y` with `(I + H) y = |v| e_1`, `[m, B]`, 0 where a row is not inside of its space."""
        # What is above the diagonal of a column of `U`, less the products of `y` below.
        m = len(columns)
        y = [self.z[0]] * m
        upper = [self._eliminated(column[:-2]) for column in columns]
        rest = torch.stack(self.z[:m])
        for i in range(m - 1, -1, -1):
            y[i] = torch.where(inside[i], rest[i] / self.pivots[i], 0)
            rest = torch.addcmul(rest[:i], upper[i], y[i], value=-1)
        return torch.stack(y)

    def _eliminated(self, above: Tensor) -> Tensor:
        """`L^-1` of what stands above the diagonal in a column, `[k, B]`."""
        rows = list(above.unbind())
        for i in range(1, len(rows)):
            rows[i] = torch.addcmul(rows[i], self.lower[i - 1], rows[i - 1])
        return torch.stack(rows) if rows else above


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
    q = v.flatten(1) * _inverse(size)
    # One pass of Gram and Schmidt's method leaves some `eps |w|` along the basis, which matters
    # where little is left of `w`; a second one leaves nothing.
    loose = isinstance(rtol, float) and rtol >= eps**0.5
    basis = _Basis(q, 1 if loose else 2, differentiable=differentiable)
    factors, target = _Factors(size), rtol * size
    columns: list[Tensor] = []
    residual, done = size, size == 0
    ended = closed = torch.zeros_like(done)
    dims = torch.zeros_like(done, dtype=torch.long)
    while len(columns) < dim and not bool(seen(done & ~closed if differentiable else done).all()):
        if columns:
            basis.append(q)
        w = product(q.view_as(v)).flatten(1)
        length = norm(w.detach())
        h, w = basis.split(w)
        left = norm(w.detach())
        ended = ended | ~(left > 10 * eps * length)
        if differentiable:  # norms have no second derivative at zero
            left = norm(torch.where(ended[:, None], 1, w))
        below = left.masked_fill(ended, 0)
        error = factors.append(torch.cat((h, below[None])).detach())
        now = ~done if len(columns) + 1 == dim else (error <= target) & ~done
        residual = torch.where(now, error, residual)
        dims = dims.masked_fill(now, len(columns) + 1)
        done = done | now
        if differentiable:
            closed = closed | (now & (below <= 1e-2 * length))
        # What follows a complete space is zero; within a graph it is `w`, for its derivative.
        scale = left.masked_fill(ended, 1 if differentiable else math.inf)
        columns.append(torch.cat((h, (scale if differentiable else below)[None])))
        q = w / scale[:, None]
    all_dims = torch.where(closed, len(columns), dims)
    space = Krylov(torch.zeros_like(v), residual, columns, dims, all_dims, size)
    if not columns:
        return space
    with torch.no_grad():
        inside = torch.arange(len(columns), device=v.device)[:, None] < dims
        weights = factors.solve([column.detach() for column in columns], inside)
        return replace(space, solution=basis.combine(weights).view_as(v))


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
