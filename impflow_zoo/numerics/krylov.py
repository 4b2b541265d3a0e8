"""Arnoldi's method on many small problems at once: one Krylov space per row.

With the products `A q` alone it answers two questions about each row's matrix `I + A`: the
solution of `(I + A) u = v` (full orthogonalisation method) and the form `v^T log(I + A) v`.
For `|A| < 1` both exist and the projected systems are never singular.

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


@dataclass(frozen=True)
class Krylov:
    """What a Krylov space of each row has to say.

    Arguments:
        solution: approximations `u` of `(I + A)^-1 v`, with the shape of `v`.
        residual: `|v - (I + A) u|` of each row, `[B]`.
        hessenberg: the projections of `A`, zero outside of each row's own space, `[B, m, m]`.
        size: `|v|` of each row, `[B]`.
        products: how often `A` was applied.
    """

    solution: Tensor
    residual: Tensor
    hessenberg: Tensor
    size: Tensor
    products: int

    def log_form(self, rtol: float) -> Tensor:
        """`v^T log(I + A) v` of each row, `[B]`, by the power series of the projection."""
        if not self.products:  # nothing but zero vectors, or no rows at all
            return torch.zeros_like(self.size)
        h = self.hessenberg
        power = torch.zeros_like(h[:, 0])
        power[:, 0] = 1
        total = torch.zeros_like(self.size)
        for k in range(1, 10_000):
            power = -(h * power[:, None]).sum(-1)
            total = total - power[:, 0] / k
            if float(power.abs().amax()) <= rtol * k:
                break
        return total * self.size**2


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
    batch, features = v.flatten(1).shape
    dim = min(max_dim, features)
    size = norm(v)
    start = torch.where(size > 0, 1 / size, torch.zeros_like(size))
    basis = [v.flatten(1) * start[:, None]]
    eps = torch.finfo(v.dtype).eps
    h = v.new_zeros(batch, dim + 1, dim)
    weights = v.new_zeros(batch, dim)
    residual = size.clone()
    dims = torch.zeros(batch, dtype=torch.long, device=v.device)
    done = size == 0
    products = 0
    while products < dim and not bool(done.all()):
        k = products
        w = product(basis[k].view_as(v)).flatten(1)
        products += 1
        before = norm(w)
        for i, q in enumerate(basis):
            h[:, i, k] = dot(q, w)
            w = w - h[:, i, k, None] * q
        left = norm(w)
        left = torch.where(left > 10 * eps * before, left, torch.zeros_like(left))
        h[:, k + 1, k] = left
        rhs = torch.zeros_like(h[:, : k + 1, :1])
        rhs[:, 0, 0] = size
        identity = torch.eye(k + 1, dtype=v.dtype, device=v.device)
        y, _ = torch.linalg.solve_ex(identity + h[:, : k + 1, : k + 1], rhs)
        error = left * y[:, k, 0].abs()
        now = ~done & (error <= rtol * size)
        if products == dim:
            now = ~done
        weights[now, : k + 1] = y[now, :, 0]
        residual[now], dims[now] = error[now], k + 1
        done = done | now
        if products < dim:
            basis.append(w * torch.where(left > 0, 1 / left, torch.zeros_like(left))[:, None])
    solution = torch.zeros_like(basis[0])
    for i, q in enumerate(basis):
        solution = solution + weights[:, i, None] * q
    inside = torch.arange(dim, device=v.device) < dims[:, None]
    hessenberg = h[:, :dim] * (inside[:, None] & inside[..., None])
    return Krylov(
        solution.view_as(v), residual, hessenberg[:, :products, :products], size, products
    )


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
