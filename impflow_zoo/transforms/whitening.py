"""A linear map of features or channels that starts by making them uncorrelated."""

from __future__ import annotations

import torch
from nflows.transforms import LULinear
from torch import Tensor
from torch.nn import functional

__all__ = ["Whitening"]


class Whitening(LULinear):
    """`z = W x + b` on each row, or on the channels of each pixel; `W = L U`, learned.

    The first batch seen in training sets `W = C^-1`, with `C` the Cholesky factor of its
    covariance, and `b` so that the means vanish: where an ActNorm lets every channel leave with
    unit variance, this one lets them leave uncorrelated as well, and a block of bounded slope need
    not spend itself on that. On images it is an invertible 1x1 convolution; after a squeeze the
    channels are a patch of pixels.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018), 3.2
        https://arxiv.org/abs/1807.03039

    Arguments:
        features: of the rows, `[B, features]`, or channels of the maps, `[B, features, H, W]`.
    """

    initialized: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(inputs)
        if self.training and not self.initialized:
            self._initialise(inputs)
        weight = self.weight()
        if inputs.dim() == 2:
            return functional.linear(inputs, weight, self.bias), self._volume(inputs)
        return functional.conv2d(inputs, weight[:, :, None, None], self.bias), self._volume(inputs)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(inputs)
        lower, upper = self._create_lower_upper()
        z = inputs.transpose(0, 1).flatten(1) - self.bias[:, None]
        z = torch.linalg.solve_triangular(lower, z, upper=False, unitriangular=True)
        z = torch.linalg.solve_triangular(upper, z, upper=True)
        x = z.reshape(self.features, len(inputs), *inputs.shape[2:]).transpose(0, 1)
        return x, -self._volume(inputs)

    def _check(self, inputs: Tensor) -> None:
        if inputs.dim() not in (2, 4) or inputs.shape[1] != self.features:
            n = self.features
            raise ValueError(
                f"input of shape {list(inputs.shape)}: [B, {n}] or [B, {n}, H, W] is needed"
            )

    def _volume(self, inputs: Tensor) -> Tensor:
        """The log-determinant of each row, `[B]`."""
        return (inputs.shape[2:].numel() * self.logabsdet()).expand(len(inputs))

    @torch.no_grad()
    def _initialise(self, inputs: Tensor) -> None:
        x = inputs.double().transpose(0, 1).flatten(1)
        covariance = torch.cov(x, correction=0)
        covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean())
        identity = torch.eye(self.features, dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky(covariance)
        weight = torch.linalg.solve_triangular(factor, identity, upper=False)
        scale = weight.diagonal()
        lower = weight / scale  # unit diagonal; what is left of W is the diagonal U
        self.lower_entries.copy_(lower[self.lower_indices[0], self.lower_indices[1]])
        self.upper_entries.zero_()
        self.unconstrained_upper_diag.copy_(torch.log(torch.expm1(scale - self.eps)))
        self.bias.copy_(-weight @ x.mean(dim=1))
        self.initialized.fill_(value=True)


_RIDGE = 1e-4  # of the mean variance: what never varies cannot be scaled to vary
