"""A learned monotone map of the length of rows: radial Gaussianization."""

from __future__ import annotations

import math

import torch
from nflows.transforms import Transform
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.numerics.rational_quadratic import Bin, edges, slopes
from impflow_zoo.numerics.settings import is_whole
from impflow_zoo.transforms.checks import check_channels

__all__ = ["RadialTransform"]

_LEAST = 1e-3  # width and height of a bin, relative to their mean, and slope at a knot


class RadialTransform(Transform):
    """`z = x exp(f(u) - u)` with `u = log(|x| / sqrt(D))`: scales rows, and keeps directions.

    `f` is a monotone rational-quadratic spline on `[-tail_bound, tail_bound]` and the identity
    outside. So the map is invertible by construction and has a closed form in both directions::

        log|det dz/dx| = D (f(u) - u) + log f'(u)

    The factor of the log-determinant is `exp(f(u) - u)` across the row, in `D - 1` directions, and
    `exp(f(u) - u) f'(u)` along it. `u` is 0 for a row whose entries have unit variance. Near zero
    and far out the map is the identity. It starts as the identity everywhere.

    Patches of photographs and wavelet coefficients have nearly elliptical densities with heavy
    tails: their contrast varies by orders of magnitude. After a whitening one radial map makes such
    a density Gaussian. Blocks of bounded slope need many layers for the same.

    References:
        Nonlinear Extraction of Independent Components of Natural Images Using Radial
        Gaussianization (Lyu & Simoncelli, 2009), section 3
        https://doi.org/10.1162/neco.2009.04-08-773

        Neural Spline Flows (Durkan et al., 2019), section 3.1
        https://arxiv.org/abs/1906.04032

    Arguments:
        features: size `D` of the rows, `[B, D]`, or channels of maps, `[B, D, H, W]`, which are
            scaled at every position.
        bins: number of bins of the spline.
        tail_bound: largest `|u|` that the spline moves.

    Raises:
        ValueError: for sizes that are not whole and positive, or a bound out of (0, 100).

    Example:
        >>> x = torch.randn(1000, 8) * torch.randn(1000, 1).exp()  # heavy tails
        >>> layer = RadialTransform(8)
        >>> z, logabsdet = layer(x)
        >>> z.shape, logabsdet.shape
        (torch.Size([1000, 8]), torch.Size([1000]))
        >>> torch.allclose(layer.inverse(z)[0], x)
        True
    """

    def __init__(self, features: int, bins: int = 24, tail_bound: float = 4.0) -> None:
        super().__init__()
        whole = is_whole(features) and is_whole(bins)
        if not whole or features < 1 or bins < 1 or not 0 < tail_bound < 100:
            raise ValueError(
                f"features={features}, bins={bins}, tail_bound={tail_bound}: at least one feature "
                "and one bin, and a bound between 0 and 100 are needed"
            )
        self.features, self.tail_bound = features, float(tail_bound)
        self.widths = nn.Parameter(torch.zeros(bins))
        self.heights = nn.Parameter(torch.zeros(bins))
        self.slopes = nn.Parameter(torch.zeros(bins - 1))

    def extra_repr(self) -> str:
        return f"{self.features}, bins={len(self.widths)}, tail_bound={self.tail_bound}"

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: rows `[B, D]` or maps `[B, D, H, W]`.
            context: has no effect.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            ValueError: for another shape or type.
        """
        u = self._log_radius(inputs)
        v, log_slope = self._spline(u)
        return self._scaled(inputs, v - u, log_slope)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `[B, D]` or maps `[B, D, H, W]`.
            context: has no effect.

        Returns:
            `x` with the shape of `z`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            ValueError: for another shape or type.
        """
        v = self._log_radius(inputs)
        u, log_slope = self._spline(v, inverse=True)
        return self._scaled(inputs, u - v, log_slope)

    def _log_radius(self, inputs: Tensor) -> Tensor:
        """`log(|x| / sqrt(D))`, float64 `[B, ...]`.

        It is cut off where the spline has ended. So rows of zeros, and rows whose squares overflow,
        have finite values and derivatives.
        """
        check_channels(inputs, self.features, self.widths.dtype)
        end = math.exp(self.tail_bound + 1)
        square = inputs.double().square().mean(dim=1)
        return 0.5 * square.clamp(end**-2, end**2).log()

    def _scaled(self, x: Tensor, change: Tensor, log_slope: Tensor) -> tuple[Tensor, Tensor]:
        """Rows whose logarithmic length changes, and the log-determinant of the map, `[B]`."""
        scaled = x * change.exp().to(x.dtype).unsqueeze(1)
        logabsdet = self.features * change + log_slope
        return scaled, logabsdet.unsqueeze(1).flatten(1).sum(dim=1).to(x.dtype)

    def _spline(self, u: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """`f(u)`, or its inverse, and the logarithm of the derivative of what is returned."""
        x, y, slope = self._knots()
        inside = u.abs() < self.tail_bound
        start = torch.where(inside, u, 0)  # the identity outside has no bin
        knots = (y if inverse else x).detach()
        k = (torch.searchsorted(knots, start, right=True) - 1).clamp(0, len(knots) - 2)
        own = Bin(x[k], y[k], x[k + 1] - x[k], y[k + 1] - y[k], slope[k], slope[k + 1])
        answer, log_slope = own.argument(start) if inverse else own.value(start)
        return torch.where(inside, answer, u), torch.where(inside, log_slope, 0)

    def _knots(self) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments and values of `f` at the ends of its bins, and its slopes, `[bins + 1]` each.

        The slopes at both ends are 1, as in the identity outside.
        """
        x, y = (
            self.tail_bound * (2 * edges(sizes.double(), _LEAST) - 1)
            for sizes in (self.widths, self.heights)
        )
        return x, y, functional.pad(slopes(self.slopes.double(), _LEAST), (1, 1), value=1.0)
