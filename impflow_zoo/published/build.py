"""From the config of a converted model to its transform."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from nflows.transforms import Transform
from torch import Tensor, nn

from impflow_zoo.models.build import ImageBuilder, TableBuilder
from impflow_zoo.published.config import PublishedImageConfig, PublishedTabularConfig
from impflow_zoo.published.nets import PublishedConvNet, PublishedMLP
from impflow_zoo.transforms.actnorm import ActNorm

__all__ = ["PublishedImageBuilder", "PublishedTableBuilder"]


class CentredActNorm(ActNorm):
    """`exp(log_scale) (x + shift)`, where nflows' own is `exp(log_scale) x + shift`.

    The same maps, but numbers of one form are not numbers of the other in the same precision.
    """

    def _broadcastable_scale_shift(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = super()._broadcastable_scale_shift(inputs)
        return scale, scale * shift

    @torch.no_grad()
    def _initialize(self, inputs: Tensor) -> None:
        super()._initialize(inputs)
        self.shift.div_(self.scale)


class PublishedTableBuilder(TableBuilder):
    """Makes the map of a converted flow on vectors."""

    config: PublishedTabularConfig
    actnorm = CentredActNorm

    def steps(self) -> Iterator[Transform]:
        if self.config.actnorm:
            yield self.actnorm(self.config.features)
        yield from super().steps()
        if self.config.actnorm:
            yield self.actnorm(self.config.features)

    def net(self) -> nn.Module:
        config = self.config
        assert config.activation is not None, "a config fills it in"
        return PublishedMLP(
            config.features,
            config.hidden_features,
            config.activation,
            config.lipschitz,
            norm=config.norm,
            preactivation=config.preactivation,
        )


class PublishedImageBuilder(ImageBuilder):
    """Makes the map of a converted flow on images."""

    config: PublishedImageConfig
    actnorm = CentredActNorm

    def end(self, shape: tuple[int, int, int]) -> Iterator[Transform]:
        yield from super().end(shape)
        features = math.prod(shape)
        for _ in range(self.config.fc_blocks):
            yield self.block(lambda: self._flat_net(features))
            if self.config.actnorm:
                yield self.actnorm(features)

    def net(self, shape: tuple[int, int, int], *, first: bool) -> nn.Module:
        config, (channels, height, width) = self.config, shape
        return PublishedConvNet(
            channels,
            (height, width),
            config.width,
            config.kernels,
            config.activation,
            config.preactivation and (config.first_preactivation or not first),
            config.lipschitz,
            norm=config.norm,
        )

    def _flat_net(self, features: int) -> nn.Module:
        config = self.config
        return PublishedMLP(
            features,
            config.fc_hidden,
            config.activation,
            config.lipschitz,
            norm=config.norm,
            preactivation=config.preactivation,
        )
