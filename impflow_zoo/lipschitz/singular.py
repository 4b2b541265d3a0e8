"""The leading singular vector, by products alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["leading_vector"]

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
