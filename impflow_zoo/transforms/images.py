"""Transforms of images that nflows lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from nflows.transforms import Transform
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.numerics.modes import seen

__all__ = ["Flatten", "ImageLogit", "Multiscale"]

Step = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


class ImageLogit(Transform):
    """`logit(alpha + (1 - 2 alpha) x)` of each entry, finite on `[0, 1]`.

    nflows' `Logit` has a tensor that stays behind when the model moves to another device.

    References:
        Density estimation using Real NVP (Dinh et al., 2017), section 4.1
        https://arxiv.org/abs/1605.08803

    Arguments:
        alpha: smallest distance to 0 and 1 before the logit.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        self.alpha = float(alpha)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: images `x` from 0 to 1, with shape `[B, ...]`.
            context: has no effect.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            ValueError: for images out of [0, 1].
        """
        squeezed = self.alpha + (1 - 2 * self.alpha) * inputs
        outside = seen(((squeezed <= 0) | (squeezed >= 1)).flatten(1).any(dim=1))
        if bool(outside.any()):
            raise ValueError(
                f"images out of [0, 1] in {int(outside.sum())} of {len(outside)} rows: dequantise "
                "uint8 images first, divided by 256"
            )
        outputs = torch.logit(squeezed)
        return outputs, -self._inverse_logabsdet(outputs)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: `z` with shape `[B, ...]`.
            context: has no effect.

        Returns:
            `x` with the shape of `z`, and `log|det dx/dz|` with shape `[B]`.
        """
        outputs = (torch.sigmoid(inputs) - self.alpha) / (1 - 2 * self.alpha)
        return outputs, self._inverse_logabsdet(inputs)

    def _inverse_logabsdet(self, z: Tensor) -> Tensor:
        """`log |dx/dz|`, `[B]`: the slope of the sigmoid is `sigmoid(z) sigmoid(-z)`."""
        slopes = functional.logsigmoid(z) + functional.logsigmoid(-z)
        slopes = slopes - math.log(1 - 2 * self.alpha)
        return slopes.flatten(1).sum(dim=1)


class Flatten(Transform):
    """Maps as vectors.

    Arguments:
        shape: shape of one map.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: maps `x` with shape `[B, *shape]`.
            context: has no effect.

        Returns:
            `z` with shape `[B, D]`, and `log|det dz/dx|` with shape `[B]`.
        """
        return inputs.flatten(1), inputs.new_zeros(len(inputs))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `z` with shape `[B, D]`.
            context: has no effect.

        Returns:
            `x` with shape `[B, *shape]`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            RuntimeError: for rows of another size.
        """
        return inputs.reshape(len(inputs), *self.shape), inputs.new_zeros(len(inputs))


class Multiscale(Transform):
    """After each scale but the last, half of the channels become latents.

    Arguments:
        scales: the transforms of the scales.
        shapes: of what leaves at each scale, of all that is left at the last one.
    """

    def __init__(self, scales: Sequence[Transform], shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self._transforms, self.shapes = nn.ModuleList(scales), list(shapes)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: images `x` with shape `[B, C, H, W]`.
            context: one context per row, for the scales.

        Returns:
            `z` with shape `[B, D]`, what leaves first in front, and `log|det dz/dx|` with shape
            `[B]`.

        Raises:
            ValueError, SolverError: those of the scales.
        """
        return self.split(lambda scale, x: scale(x, context), inputs)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `z` with shape `[B, D]`.
            context: one context per row, for the scales.

        Returns:
            `x` with shape `[B, C, H, W]`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            RuntimeError: for rows of another size; further errors are those of the scales.
        """
        return self.merge(lambda scale, x: scale.inverse(x, context), inputs)

    def split(self, run: Step, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data -> noise, scale by scale.

        Arguments:
            run: takes a scale and its input, `[B, C, H, W]`; returns output and log-determinant.
            x: images, `[B, C, H, W]`.

        Returns:
            What `forward` returns.
        """
        left, total = [], x.new_zeros(len(x))
        *scales, last = self._transforms
        for scale in scales:
            x, logdet = run(scale, x)
            leaving, x = x.chunk(2, dim=1)
            left.append(leaving.flatten(1))
            total = total + logdet
        x, logdet = run(last, x)
        return torch.cat((*left, x.flatten(1)), dim=1), total + logdet

    def merge(self, run: Step, z: Tensor) -> tuple[Tensor, Tensor]:
        """Noise -> data, scale by scale.

        Arguments:
            run: takes a scale and its output; returns its input and the log-determinant of that.
            z: rows, `[B, D]`.

        Returns:
            What `inverse` returns.

        Raises:
            RuntimeError: for rows of another size.
        """
        sizes = [math.prod(shape) for shape in self.shapes]
        pairs = zip(z.split(sizes, dim=1), self.shapes, strict=True)
        *left, last = (part.reshape(-1, *shape) for part, shape in pairs)
        *scales, final = self._transforms
        x, total = run(final, last)
        for scale, leaving in zip(reversed(scales), reversed(left), strict=True):
            x, logdet = run(scale, torch.cat((leaving, x), dim=1))
            total = total + logdet
        return x, total
