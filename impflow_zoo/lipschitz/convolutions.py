"""Convolutions with a bounded operator norm on images of a given size.

The norm is the square root of the largest eigenvalue of `A^T A`, with `A` the convolution with zero
padding as a matrix. Its largest Ritz value in a Krylov space, `max |A v| / |v|` over vectors `v` of
the space, bounds it from below, and converges to it much faster than power iteration does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.lipschitz.convolution_bound import convolution_norm_bound
from impflow_zoo.lipschitz.norms import Scale, SpectralLayer, unit
from impflow_zoo.numerics.modes import is_transforming, seen

__all__ = ["LipschitzConv2d"]

Product = Callable[[Tensor], Tensor]
_STEPS = 30  # of the first Krylov space towards convergence


class LipschitzConv2d(SpectralLayer):
    """A convolution with zero padding, whose operator norm does not exceed a coefficient.

    The norm is the norm of the linear map `[in, H, W] -> [out, H, W]`, borders included. The norm
    of the kernel reshaped to a matrix can be wrong by a factor of the kernel size, either way. For
    1x1 kernels the two agree, and the vector is that of the matrix.

    References:
        Regularisation of Neural Networks by Enforcing Lipschitz Continuity (Gouk et al., 2018)
        https://arxiv.org/abs/1804.04368

    Arguments:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: an odd number; the padding keeps the size of the image.
        image_size: height and width of the images.
        coefficient: largest norm allowed; smaller weights are not changed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        image_size: tuple[int, int],
        coefficient: float = 0.97,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size}: an odd number is needed")
        height, width = image_size
        self.image_size = (1, 1) if kernel_size == 1 else (int(height), int(width))
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size)
        self._start(convolution, coefficient, self.image_size[0] * self.image_size[1])
        self.vector.copy_(functional.normalize(torch.randn_like(self.vector), dim=0))

    def operator(self, weight: Tensor, v: Tensor) -> Tensor:
        image = v.view(1, weight.shape[1], *self.image_size)
        return functional.conv2d(image, weight, padding=weight.shape[-1] // 2).flatten()

    def adjoint(self, weight: Tensor) -> Tensor:
        return weight.flip(2, 3).transpose(0, 1).contiguous()

    def in_use(self, norm: Tensor, scale: Scale = 1.0) -> Tensor:
        # A weight in this format makes the images follow, which is faster on CPU and CUDA.
        weight = super().in_use(norm, scale)
        if is_transforming():  # torch.func.vmap does not know the format
            return weight
        return weight.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def converged(self) -> Tensor:
        v = self.vector
        if not self._usable():
            return v
        # Relative residual of `A^T A v`; the relative error of the norm is about its square.
        limit = 1e-7 if self.weight.dtype == torch.float64 else 1e-5
        forward, backward = self._products(self.weight)
        # The vector may belong to a smaller singular value: products do not mix channels that are
        # not connected.
        other = self._leading(_STEPS, self._other())
        better = self.length(forward(other)) > (1 + 1e-6) * self.length(forward(v))
        v = torch.where(better, other, v)
        # Training crowds the top of the spectrum, and a restart loses what tells vectors apart: so
        # spaces grow, up to 2^23 entries of a basis.
        largest = max(_STEPS, 2**23 // len(v))
        for i in range(12):
            image = forward(v)
            sigma = self.length(image) / self.length(v)
            residual = backward(image) - sigma**2 * v
            if bool(seen((self.length(residual) <= limit * sigma**2)[None]).all()):
                break
            v = self._leading(min(_STEPS << i, largest), v)
        return v

    def advanced(self) -> Tensor:
        if not self._usable():
            return self.vector.clone()
        # A push: products stay at an exact singular vector, even if others have larger values.
        v = unit(self.vector + 1e-3 * self._other())
        for _ in range(5):
            v, gain = leading_vector(*self._products(self.weight), v, 6)
            if bool(gain <= 1 + 1e-4):
                break
        return v

    def _usable(self) -> bool:
        """Whether the weight is finite and not zero, so that a vector can be found."""
        usable = self.weight.isfinite().all() & self.weight.any()
        return bool(seen(usable[None]).any())

    def _products(self, weight: Tensor) -> tuple[Product, Product]:
        """The operator of a tall weight, and its adjoint."""
        weight = self.tall(weight)
        return partial(self.operator, weight), partial(self.operator, self.adjoint(weight))

    def _other(self) -> Tensor:
        """A unit vector that has something of every direction, always the same."""
        position = torch.arange(len(self.vector)).to(self.vector)
        return unit(torch.cos(position**2))

    def _leading(self, steps: int, v: Tensor) -> Tensor:
        """What a Krylov space that starts from a vector finds."""
        return self.unit(leading_vector(*self._products(self.weight), v, steps)[0])

    def length(self, vector: Tensor) -> Tensor:
        # Plane by plane: float32 loses 1e-5 of the norm in one sum of 500,000 squares.
        planes = torch.linalg.vector_norm(vector.view(-1, *self.image_size), dim=(1, 2))
        return torch.linalg.vector_norm(planes)

    @torch.no_grad()
    def norm_bound(self) -> float:
        """An upper bound on the norm in float64, by `convolution_norm_bound`."""
        weight = self.normalised_weight(training=False).double()
        forward, backward = self._products(weight)
        start = self.settled().to(weight)

        def estimate(steps: int) -> float:
            v = leading_vector(forward, backward, start, steps)[0]
            return float(torch.linalg.vector_norm(forward(self.unit(v))))

        return convolution_norm_bound(weight, self.image_size, estimate)


def leading_vector(
    operator: Product, adjoint: Product, v: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """The leading right singular vector in a Krylov space, and by what factor `|A v|` grew.

    Lanczos' method on `A^T A` with full reorthogonalisation. Where the top of the spectrum is
    crowded, as it is for convolutions of large images, `m` products do the work of about `m^2`
    power iterations. The given `v` is not in the kernel of `A`; the answer has length 1.

    References:
        An Iteration Method for the Solution of the Eigenvalue Problem of Linear Differential and
        Integral Operators (Lanczos, 1950) https://doi.org/10.6028/jres.045.026
    """
    steps = min(steps, len(v))
    w = unit(v)
    images = [operator(w)]
    basis = images[0].new_empty(steps, len(v))  # mapped by `torch.func.vmap` if the operator is
    for k in range(steps):
        basis[k] = w
        if k:
            images.append(operator(w))
        if k + 1 < steps:
            span = basis[: k + 1]
            w = adjoint(images[k])
            w = w - span.mT @ (span @ w)
            length = torch.linalg.vector_norm(w)
            w = w - span.mT @ (span @ w)  # what rounding left of the others
            left = torch.linalg.vector_norm(w)
            # Where the space is exhausted, `w` is rounding errors, and may lie in the space still:
            # zero adds nothing.
            w = torch.where(left > 0.5 * length, w / left, 0)
    image = torch.stack(images)
    squares, vectors = torch.linalg.eigh(image @ image.mT)
    return unit(vectors[:, -1] @ basis), squares[-1].sqrt() / torch.linalg.vector_norm(image[0])
