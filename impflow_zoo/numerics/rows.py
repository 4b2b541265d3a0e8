"""Small operations on every row of a batch: lengths, and dense matrices, one per row.

None of them synchronises with the host. LAPACK is called once per matrix; for two features closed
forms (Cramer's rule) are many times faster and as accurate, as `I + J` is well conditioned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from impflow_zoo.numerics.modes import is_transforming

__all__ = ["listed"]


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each row, `[B, ...] -> [B]`, safe from overflow of the squares."""
    return wide_norm(x).to(x.dtype)


def wide_norm(x: Tensor) -> Tensor:
    """`norm` in float64, where lengths of float32 do not overflow either."""
    x = x.flatten(1)
    if x.dtype != torch.float64:
        return torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
    if not x.shape[1]:
        return x.new_zeros(len(x))
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1)
    return torch.linalg.vector_norm(x / scale, dim=1) * scale[:, 0]


def listed(rows: list[int]) -> str:
    """The first row numbers, for a message."""
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each pair of rows, `[B, ...], [B, ...] -> [B]`."""
    return (a * b).flatten(1).sum(dim=1)


def plus_identity(a: Tensor) -> Tensor:
    """`I + A` for matrices `[B, d, d]`."""
    return a + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)


def logdet(a: Tensor) -> Tensor:
    """Logarithms of determinants, `[B, d, d] -> [B]`; NaN or `-inf` where one is not positive."""
    if a.shape[1] == 2:
        return _determinant(a).log()
    if is_transforming():
        return _transformed_logdet(a)
    sign, value = torch.linalg.slogdet(a)
    return torch.where(sign > 0, value, torch.nan)


def _transformed_logdet(a: Tensor) -> Tensor:
    """`logdet` with derivatives of products alone, right to the third order.

    `log det A = log det A_0 + log det(I + E)` with `A_0` the same matrix without derivatives, and
    `E = A_0^-1 (A - A_0)`, which is zero but for its derivatives. So three terms of the series `tr
    E - tr E^2 / 2 + tr E^3 / 3 - ...` are enough. torch's own forward mode of determinants mixes up
    matrices within nested `vmap` (2.13).
    """
    start = a.detach()
    sign, value = torch.linalg.slogdet(start)
    e = torch.linalg.inv_ex(start)[0] @ (a - start)
    square = e @ e
    traces = [t.diagonal(dim1=1, dim2=2).sum(dim=1) for t in (e, square, square @ e)]
    first, second, third = traces
    return torch.where(sign > 0, value, torch.nan) + first - second / 2 + third / 3


def solve(a: Tensor, b: Tensor) -> Tensor:
    """The solutions of `a x = b`, `[B, d, d], [B, d] -> [B, d]`; not finite if `a` is singular."""
    if a.shape[1] != 2:
        return torch.linalg.solve_ex(a, b[..., None])[0][..., 0]
    first = torch.addcmul(a[:, 1, 1] * b[:, 0], a[:, 0, 1], b[:, 1], value=-1)
    second = torch.addcmul(a[:, 0, 0] * b[:, 1], a[:, 1, 0], b[:, 0], value=-1)
    return torch.stack((first, second), dim=1) / _determinant(a)[:, None]


def _determinant(a: Tensor) -> Tensor:
    top_left, top_right, low_left, low_right = a.flatten(1).unbind(1)
    return torch.addcmul(top_left * low_right, top_right, low_left, value=-1)
