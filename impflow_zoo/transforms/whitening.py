"""A learned linear map of features or channels that initially decorrelates them."""

from __future__ import annotations

import torch
from nflows.transforms import LULinear
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.numerics.finite import check_finite
from impflow_zoo.numerics.modes import without_autocast
from impflow_zoo.transforms.checks import check_channels
from impflow_zoo.transforms.first_batch import FirstBatch

__all__ = ["Whitening"]


class Whitening(FirstBatch, LULinear):
    """`z = W x + b` on each row, or on the channels of each pixel; `W = L U`, learned.

    The first training batch sets `W = C^-1`, with `C` the Cholesky factor of its covariance, and
    `b` so that the means vanish. After an ActNorm channels have unit variance; after a Whitening
    they are also uncorrelated, for which blocks of bounded slope would need many layers. On images
    it is an invertible 1x1 convolution; after a squeeze the channels are a patch of pixels.
    Correlations are shrunk by `(features / samples)^2`. With fewer samples than features only the
    variances are normalised.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018), 3.2
        https://arxiv.org/abs/1807.03039

    Arguments:
        features: size of the rows, `[B, features]`, or channels of images, `[B, features, H, W]`.

    Example:
        >>> rows = torch.randn(500, 2) @ torch.tensor([[3.0, 0.0], [2.9, 0.1]])
        >>> z, logabsdet = Whitening(2)(rows)
        >>> torch.cov(z.detach().T).round(decimals=1).abs()
        tensor([[1., 0.],
                [0., 1.]])
    """

    def __init__(self, features: int) -> None:
        # nflows indexes its triangular matrices with NumPy. This tensor takes no memory. It shows
        # their size to `models.budget`, which counts the numbers of tensors.
        torch.empty(features, features, device="meta")
        super().__init__(features)
        # nflows keeps its diagonal above 1e-3: scales of data have no such bound.
        nn.init.zeros_(self.unconstrained_upper_diag)
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @property
    def upper_diag(self) -> Tensor:
        """The diagonal of `U`, `[features]`."""
        return self.unconstrained_upper_diag.exp()

    def _create_lower_upper(self) -> tuple[Tensor, Tensor]:
        """`L` and `U`; nflows writes by NumPy's indices, which `torch.export` gets wrong."""
        size, place = self.features, self.bias.device
        below = torch.tril_indices(size, size, -1, device=place).unbind()
        above = torch.triu_indices(size, size, 1, device=place).unbind()
        identity = torch.eye(size, dtype=self.bias.dtype, device=place)
        lower = identity.index_put(below, self.lower_entries)
        return lower, self.upper_diag.diag().index_put(above, self.upper_entries)

    def logabsdet(self) -> Tensor:
        """`log|det W|`, that of one row or pixel: a scalar, with shape `[]`."""
        return self.unconstrained_upper_diag.sum()

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: rows `[B, features]` or images `[B, features, H, W]`.
            context: has no effect.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            ValueError: for another shape or type.
            RuntimeError: as `start`.
            NotFiniteError: for a first training batch with NaN or infinity.
        """
        check_channels(inputs, self.features, self.bias.dtype)
        self.start(inputs)
        z = functional.linear(inputs.movedim(1, -1), self.weight(), self.bias).movedim(-1, 1)
        return z, self._volume(inputs)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `[B, features]` or images `[B, features, H, W]`.
            context: has no effect.

        Returns:
            `x` with the shape of `z`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            ValueError: for another shape or type.
        """
        check_channels(inputs, self.features, self.bias.dtype)
        z = inputs.transpose(0, 1).flatten(1) - self.bias[:, None]
        with without_autocast(self):
            lower, upper = self._create_lower_upper()
            x = torch.linalg.solve_triangular(lower, z, upper=False, unitriangular=True)
            x = torch.linalg.solve_triangular(upper, x, upper=True)
        x = x.reshape(self.features, len(inputs), *inputs.shape[2:]).transpose(0, 1)
        return x, -self._volume(inputs)

    def _volume(self, inputs: Tensor) -> Tensor:
        """The log-determinant of each row, `[B]`."""
        return (inputs.shape[2:].numel() * self.logabsdet()).expand(len(inputs))

    @torch.no_grad()
    def initialise(self, inputs: Tensor) -> None:
        check_finite(inputs, "inputs")
        x = inputs.double().transpose(0, 1).flatten(1)
        std, mean = torch.std_mean(x, dim=1, correction=0)
        std[x.amin(dim=1) == x.amax(dim=1)] = 1  # rounding may leave them more than 0
        x = (x - mean[:, None]) / std[:, None]
        # Some is left, so that features that are functions of others stay bounded.
        shrinkage = max(1e-4, min(1.0, (len(x) / x.shape[1]) ** 2))
        correlation = (1 - shrinkage) * (x @ x.T) / x.shape[1]
        correlation.diagonal().fill_(1)
        identity = torch.eye(self.features, dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky(correlation)
        weight = torch.linalg.solve_triangular(factor, identity, upper=False) / std
        lower = weight / weight.diagonal()  # what is left of W is the diagonal U
        self.lower_entries.copy_(lower[self.lower_indices[0], self.lower_indices[1]])
        self.upper_entries.zero_()
        self.unconstrained_upper_diag.copy_(weight.diagonal().log())
        self.bias.copy_(-weight @ mean)
        self.initialized.fill_(value=True)
