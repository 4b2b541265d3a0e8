"""The largest singular value: a vector by products alone, a bound that is proved by a factor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["largest_eigenvalue_bound", "leading_vector"]

Product = Callable[[Tensor], Tensor]


def leading_vector(operator: Product, adjoint: Product, v: Tensor, steps: int) -> Tensor:
    """The best approximation of the leading right singular vector in a Krylov space.

    Lanczos' method on `A^T A` with full reorthogonalisation. Where the top of the spectrum is
    crowded, as it is for convolutions of large images, `m` products do the work of about `m^2`
    power iterations. The answer is never worse than `v`, by more than rounding.

    References:
        An Iteration Method for the Solution of the Eigenvalue Problem of Linear Differential and
        Integral Operators (Lanczos, 1950) https://doi.org/10.6028/jres.045.026

    Arguments:
        operator: `v -> A v` on flat vectors.
        adjoint: `u -> A^T u` on flat vectors.
        v: where to start, with shape `(n,)`, not in the kernel of `A`.
        steps: dimension of the space.

    Returns:
        A unit vector with shape `(n,)`.
    """
    steps = min(steps, len(v))
    basis = v.new_empty(steps, len(v))
    projected = v.new_zeros(steps, steps)  # A^T A within the space: tridiagonal
    start = w = _unit(v)
    for k in range(steps):
        basis[k] = w
        image = operator(w)
        projected[k, k] = torch.dot(image, image)
        if k + 1 < steps:
            known = basis[: k + 1]
            w = adjoint(image)
            w = w - known.mT @ (known @ w)
            projected[k, k + 1] = projected[k + 1, k] = torch.linalg.vector_norm(w)
            for _ in range(2):  # for what rounding left of the others
                w = _unit(w)
                w = w - known.mT @ (known @ w)
            # Where the space is exhausted, `w` is rounding errors. What is left of them after that
            # may lie in the space still: zero adds nothing.
            w = torch.where(torch.linalg.vector_norm(w) > 0.5, _unit(w), 0)
    _, vectors = torch.linalg.eigh(projected)
    found = _unit(vectors[:, -1] @ basis)
    # Rounding of long sums may make a length differ.
    longer = torch.linalg.vector_norm(operator(found)) >= projected[0, 0].sqrt() * (1 - 1e-4)
    return torch.where(longer, found, start)


def _unit(v: Tensor) -> Tensor:
    """`v / |v|`, where torch's default would leave vectors shorter than 1e-12 short; 0 stays 0."""
    return functional.normalize(v, dim=0, eps=torch.finfo(v.dtype).tiny)


def largest_eigenvalue_bound(matrix: Tensor, start: Tensor) -> float:
    """An upper bound of the eigenvalues of a symmetric matrix in float64, tight to 1e-6.

    That `t I - A` has a Cholesky factor proves that `t` is none too small, in a tenth of the time
    that eigenvalues take. Where to look is found by a Krylov space.

    Arguments:
        matrix: positive semi-definite, `[n, n]`.
        start: close to the leading eigenvector, `[n]`; further off it costs time, nothing else.
    """
    found = leading_vector(matrix.mv, matrix.mv, start.to(matrix), steps=8)
    estimate = float(torch.linalg.vector_norm(matrix @ found))
    rounding = len(matrix) ** 2 * torch.finfo(matrix.dtype).eps
    for slack in (1e-9, 1e-8, 1e-7, 1e-6):
        bound = estimate * (1 + slack)
        shifted = -matrix
        shifted.diagonal().add_(bound)
        if int(torch.linalg.cholesky_ex(shifted)[1]) == 0:
            return bound * (1 + rounding)
    return float(torch.linalg.eigvalsh(matrix)[-1]) * (1 + rounding)
