"""Small operations that treat every row of a batch on its own; none of them waits for a number."""

from __future__ import annotations

import torch
from torch import Tensor

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
