"""The leading singular vector of an operator that is known by its products alone."""

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
    power iterations. The answer is never worse than `v`.

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
    w, images = v, []
    for k in range(steps):
        # Where the space is exhausted this makes unit vectors of rounding errors. They are
        # orthogonal to the others, and the projection takes them for what they are.
        basis[k] = functional.normalize(w, dim=0)
        images.append(operator(basis[k]))
        if k + 1 < steps:
            w = adjoint(images[k])
            for _ in range(2):  # once is not enough in float32
                w = w - basis[: k + 1].mT @ (basis[: k + 1] @ w)
    projected = torch.stack(images)
    _, vectors = torch.linalg.eigh(projected @ projected.mT)
    return functional.normalize(vectors[:, -1] @ basis, dim=0)
