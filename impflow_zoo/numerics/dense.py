"""Many small dense matrices, one per row: determinants and linear systems.

LAPACK is called once for every matrix; for one or two features the closed forms are many times
faster and as accurate.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["logdet", "solve"]


def logdet(a: Tensor) -> tuple[Tensor, Tensor]:
    """Sign and logarithm of the absolute value of determinants, `[B, d, d] -> [B], [B]`."""
    if a.shape[1] > 2:
        sign, value = torch.linalg.slogdet(a)
        return sign, value
    determinant = a[:, 0, 0]
    if a.shape[1] == 2:
        determinant = determinant * a[:, 1, 1] - a[:, 0, 1] * a[:, 1, 0]
    return determinant.detach().sign(), determinant.abs().log()


def solve(a: Tensor, b: Tensor) -> Tensor:
    """The solutions of `a x = b`, `[B, d, d], [B, d] -> [B, d]`; not finite if `a` is singular."""
    if a.shape[1] > 2:
        return torch.linalg.solve_ex(a, b[..., None])[0][..., 0]
    if a.shape[1] == 1:
        return b / a[:, 0]
    determinant = a[:, 0, 0] * a[:, 1, 1] - a[:, 0, 1] * a[:, 1, 0]
    first = a[:, 1, 1] * b[:, 0] - a[:, 0, 1] * b[:, 1]
    second = a[:, 0, 0] * b[:, 1] - a[:, 1, 0] * b[:, 0]
    return torch.stack((first, second), dim=1) / determinant[:, None]
