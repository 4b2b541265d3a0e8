"""Learned noise of dequantisation, as a map of each value within its cell."""

from __future__ import annotations

import torch
from nflows.transforms import Transform
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.numerics.modes import without_autocast
from impflow_zoo.numerics.rational_quadratic import Bin, edges, slopes
from impflow_zoo.numerics.settings import is_whole
from impflow_zoo.transforms.checks import check_channels

__all__ = ["VariationalDequantisation"]

_LEAST = 5e-2  # width and height of a bin, relative to their mean, and slope at a knot


class VariationalDequantisation(Transform):
    """Images in [0, 1] whose values move within their cells: variational dequantisation.

    An image of whole numbers `k` becomes `x = (k + v) / levels`, with uniform noise `v` in [0, 1).
    The density of `x` is then flat within every cell, and has jumps between cells, which a smooth
    flow cannot fit. This layer maps `v` to `u = f(v)`. The flow behind it sees `(k + u) / levels`::

        log|det du/dv| = sum of log f'(v)

    `f` is a monotone rational-quadratic spline from [0, 1] to [0, 1] for each value. A small
    convolutional net computes its bins from the cells `k` of the neighbours. The cells stay as they
    are, so the inverse has a closed form. `u` has the density `q(u | k) = 1 / f'(v)`. So the mean
    log-density over uniform `v`, the usual score of images, is the bound of variational
    dequantisation::

        E_v [log p(x)] = E_q [log p_flow(u + k) - log q(u | k)]

    The layer starts as the identity, which is uniform dequantisation. Values out of [0, 1] stay.

    References:
        Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
        Architecture Design (Ho et al., 2019), section 3.1
        https://arxiv.org/abs/1902.00275

    Arguments:
        channels: of the images.
        levels: number of cells of the interval from 0 to 1.
        width: hidden channels of the net.
        bins: of each spline.

    Raises:
        ValueError: for sizes that are not whole and positive.

    Example:
        >>> x = (torch.randint(256, (4, 3, 8, 8)) + torch.rand(4, 3, 8, 8)) / 256
        >>> layer = VariationalDequantisation(3, levels=256)
        >>> z, logabsdet = layer(x)
        >>> z.shape, logabsdet.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4]))
        >>> torch.equal((256 * z).floor(), (256 * x).floor())
        True
    """

    def __init__(self, channels: int, levels: int = 256, width: int = 32, bins: int = 4) -> None:
        super().__init__()
        sizes = {"channels": channels, "levels": levels, "width": width, "bins": bins}
        if not all(is_whole(size) and size >= 1 for size in sizes.values()):
            given = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise ValueError(f"{given}: whole numbers from 1 are needed")
        self.channels, self.levels, self.bins = channels, levels, bins
        self.first = nn.Conv2d(channels, width, 5, padding=2)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels * (3 * bins + 1), 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def extra_repr(self) -> str:
        return f"{self.channels}, levels={self.levels}, bins={self.bins}"

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: images `x` from 0 to 1, with shape `[B, C, H, W]`.
            context: has no effect.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            ValueError: for another shape or type.
        """
        return self._moved(inputs, inverse=False)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: `z` with shape `[B, C, H, W]`.
            context: has no effect.

        Returns:
            `x` with the shape of `z`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            ValueError: for another shape or type.
        """
        return self._moved(inputs, inverse=True)

    def _moved(self, inputs: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        """Every value moved within its cell, and the log-determinant of the map, `[B]`."""
        check_channels(inputs, self.channels, self.last.weight.dtype)
        if inputs.dim() != 4:
            raise ValueError(f"inputs of shape {tuple(inputs.shape)}: images are needed")
        inside = (inputs >= 0) & (inputs <= 1)
        scaled = torch.where(inside, inputs, 0) * self.levels
        cell = scaled.detach().floor().clamp(max=self.levels - 1)
        start = scaled - cell
        sizes, heights, raw = self._raw(cell)
        x, y = edges(sizes, _LEAST), edges(heights, _LEAST)
        found = self._bin(x, y, slopes(raw, _LEAST), start, inverse=inverse)
        answer, log_slope = found.argument(start) if inverse else found.value(start)
        moved = (cell + answer) / self.levels
        logabsdet = torch.where(inside, log_slope, 0).flatten(1).sum(dim=1)
        return torch.where(inside, moved, inputs), logabsdet

    def _raw(self, cell: Tensor) -> tuple[Tensor, ...]:
        """What the net says of the splines' bins, `[B, C, H, W, bins]` twice, and of their slopes.

        The net sees cells from -2 to 2.
        """
        with without_autocast(self):
            x = 4 * (cell + 0.5) / self.levels - 2
            hidden = functional.silu(self.first(x))
            hidden = functional.silu(hidden + self.second(hidden))
            found = self.last(hidden).unflatten(1, (self.channels, -1)).movedim(2, -1)
        return found.split((self.bins, self.bins, self.bins + 1), dim=-1)

    @staticmethod
    def _bin(x: Tensor, y: Tensor, slope: Tensor, start: Tensor, *, inverse: bool) -> Bin:
        """The bin of each value, of the knots `[B, C, H, W, bins + 1]` of its own spline."""
        inner = (y if inverse else x)[..., 1:-1]
        k = (start.unsqueeze(-1) >= inner).sum(dim=-1, keepdim=True)

        def at(knots: Tensor, k: Tensor) -> Tensor:
            return knots.gather(-1, k).squeeze(-1)

        left, bottom = at(x, k), at(y, k)
        width, height = at(x, k + 1) - left, at(y, k + 1) - bottom
        return Bin(left, bottom, width, height, at(slope, k), at(slope, k + 1))
