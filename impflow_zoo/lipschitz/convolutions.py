"""Convolutions with a bounded operator norm on images of a given size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.lipschitz.convolution_bound import convolution_norm_bound
from impflow_zoo.lipschitz.norms import LipschitzLayer, Scale, unit

__all__ = ["LipschitzConv2d"]

Product = Callable[[Tensor], Tensor]
_STEPS = 30  # of the first Krylov space towards convergence


class LipschitzConv2d(LipschitzLayer):
    """A convolution with zero padding, whose operator norm does not exceed a coefficient.

    The norm is the norm of the linear map `[in, H, W] -> [out, H, W]`, borders included. The norm
    of the kernel reshaped to a matrix can be wrong by a factor of the kernel size, either way. For
    1x1 kernels the two agree, and the vectors are those of the matrix.

    References:
        Regularisation of Neural Networks by Enforcing Lipschitz Continuity (Gouk et al., 2018)
        https://arxiv.org/abs/1804.04368

    Arguments:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: an odd number; the padding keeps the size of the image.
        image_size: height and width of the images.
        coefficient: largest norm allowed; smaller weights are not changed.

    Example:
        >>> layer = LipschitzConv2d(3, 8, 3, image_size=(4, 4), coefficient=0.9)
        >>> layer(torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
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
        self.v.copy_(functional.normalize(torch.randn_like(self.v), dim=0))

    def operator(self, weight: Tensor, v: Tensor) -> Tensor:
        image = v.view(1, weight.shape[1], *self.image_size)
        return functional.conv2d(image, weight, padding=weight.shape[-1] // 2).flatten()

    def in_use(self, norm: Tensor, scale: Scale = 1.0) -> Tensor:
        # A weight in this format makes the images follow, which is faster on CPU and CUDA.
        return super().in_use(norm, scale).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def converge(self) -> None:
        if not bool(self.weight.isfinite().all() and self.weight.any()):
            self.sigma.zero_()
            return
        # Relative residual of `A^T A v`; the relative error of the norm is about its square.
        limit = 1e-7 if self.weight.dtype == torch.float64 else 1e-5
        slack = 64 * torch.finfo(self.weight.dtype).eps
        # The vectors may belong to a smaller singular value: products do not mix channels that are
        # not connected.
        self._improve(_STEPS, self._other(), gain=1e-6)
        # Training crowds the top of the spectrum, and a restart loses what tells vectors apart: so
        # spaces grow, up to 2^23 entries of a basis.
        largest = max(_STEPS, 2**23 // min(len(self.u), len(self.v)))
        for i in range(12):
            u = self.operator(self.weight, self.v)
            sigma = self._length(u) / self._length(self.v)
            residual = self.operator(_adjoint(self.weight), u) - sigma**2 * self.v
            attained = (self.u * u).sum() >= (1 - slack) * sigma
            if bool(self._length(residual) <= limit * sigma**2) and bool(attained):
                break
            self._improve(min(_STEPS << i, largest), self.v)
        self.note_norm()

    def iterate(self) -> Tensor | None:
        if not bool(self.weight.isfinite().all() and self.weight.any()):
            return None
        with torch.no_grad():
            # A push: products stay at an exact singular vector, even if others have larger values.
            v = unit(self.v + 1e-3 * self._other())
            for _ in range(5):
                u, v, gain = self._leading(self.weight, v, 6)
                if bool(gain <= 1 + 1e-4):
                    break
            self.u.copy_(u)
            self.v.copy_(v)
        norm = self.attained()
        self.sigma.copy_(norm.detach())
        return norm

    def _other(self) -> Tensor:
        """A unit vector that has something of every direction, always the same."""
        position = torch.arange(len(self.v), dtype=self.v.dtype, device=self.v.device)
        return unit(torch.cos(position**2))

    def _improve(self, steps: int, v: Tensor, gain: float = -1.0) -> None:
        """Keep what a Krylov space finds if its norm is larger than the vectors' by a gain."""
        weight = self.weight.detach()
        v = self._unit(self._leading(weight, v, steps)[1])
        u = self.operator(weight, v)
        known = self._length(self.operator(weight, self.v))
        if gain < 0 or bool(self._length(u) > (1 + gain) * known):
            self.v.copy_(v)
            self.u.copy_(self._unit(u))

    def _leading(self, weight: Tensor, v: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """`leading_vectors` from `v`, or from `W v` where outputs are fewer."""
        forward, backward = (partial(self.operator, w) for w in (weight, _adjoint(weight)))
        if len(self.u) >= len(v):
            return leading_vectors(forward, backward, v, steps)
        v, u, gain = leading_vectors(backward, forward, forward(v), steps)
        return u, v, gain

    def _unit(self, vector: Tensor) -> Tensor:
        """A vector of length 1; shorter ones than 1e-12 stay short, as 0 does."""
        return vector / self._length(vector).clamp(min=1e-12)

    def _length(self, vector: Tensor) -> Tensor:
        """Its norm, plane by plane: float32 loses 1e-5 of it in one sum of 500,000 squares."""
        planes = torch.linalg.vector_norm(vector.view(-1, *self.image_size), dim=(1, 2))
        return torch.linalg.vector_norm(planes)

    @torch.no_grad()
    def norm_bound(self) -> float:
        """An upper bound on the norm in float64, by `convolution_norm_bound`."""
        weight = self.normalised_weight(training=False).double()

        def estimate(steps: int) -> float:
            v = self._unit(self._leading(weight, self.v.to(weight), steps)[1])
            return float(torch.linalg.vector_norm(self.operator(weight, v)))

        return convolution_norm_bound(weight, self.image_size, estimate)


def _adjoint(weight: Tensor) -> Tensor:
    """The kernel whose convolution is the adjoint."""
    return weight.flip(2, 3).transpose(0, 1).contiguous()


def leading_vectors(
    operator: Product, adjoint: Product, v: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular vectors `u, v` of a Krylov space, and by what factor `|A v|` grew.

    Lanczos' method on `A^T A` with full reorthogonalisation. Where the top of the spectrum is
    crowded, as it is for convolutions of large images, `m` products do the work of about `m^2`
    power iterations. The given `v` is not in the kernel of `A`; both answers have length 1.

    References:
        An Iteration Method for the Solution of the Eigenvalue Problem of Linear Differential and
        Integral Operators (Lanczos, 1950) https://doi.org/10.6028/jres.045.026
    """
    steps = min(steps, len(v))
    basis, images, w = v.new_empty(steps, len(v)), [], unit(v)
    for k in range(steps):
        basis[k] = w
        images.append(operator(w))
        if k + 1 < steps:
            known = basis[: k + 1]
            w = adjoint(images[k])
            w = w - known.mT @ (known @ w)
            length = torch.linalg.vector_norm(w)
            w = w - known.mT @ (known @ w)  # what rounding left of the others
            left = torch.linalg.vector_norm(w)
            # Where the space is exhausted, `w` is rounding errors, and may lie in the space still:
            # zero adds nothing.
            w = torch.where(left > 0.5 * length, w / left, 0)
    image = torch.stack(images)
    squares, vectors = torch.linalg.eigh(image @ image.mT)
    u, v = (unit(vectors[:, -1] @ space) for space in (image, basis))
    return u, v, squares[-1].sqrt() / torch.linalg.vector_norm(image[0])
