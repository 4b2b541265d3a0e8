"""From the config of a converted model to its transform."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from nflows.transforms import Transform
from torch import Tensor, nn

from impflow_zoo.lipschitz.published_nets import PublishedConvNet, PublishedMLP
from impflow_zoo.models.build import ImageBuilder, TableBuilder, described
from impflow_zoo.models.published.config import PublishedImageConfig, PublishedTabularConfig
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
    def initialise(self, inputs: Tensor) -> None:
        super().initialise(inputs)
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
        return _mlp(self.config, self.config.features, self.config.hidden_features)


class PublishedImageBuilder(ImageBuilder):
    """Makes the map of a converted flow on images."""

    config: PublishedImageConfig
    actnorm = CentredActNorm

    def end(self, shape: tuple[int, int, int]) -> Iterator[Transform]:
        yield from super().end(shape)
        features = math.prod(shape)
        for _ in range(self.config.fc_blocks):
            yield self.block(lambda: _mlp(self.config, features, self.config.fc_hidden))
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


def _mlp(
    config: PublishedTabularConfig | PublishedImageConfig, features: int, hidden: tuple[int, ...]
) -> nn.Module:
    assert config.activation is not None, "a config fills it in"
    sizes, norm, preactivation = (features, hidden), config.norm, config.preactivation
    act, lipschitz = config.activation, config.lipschitz
    return PublishedMLP(*sizes, act, lipschitz, norm=norm, preactivation=preactivation)


@described.register
def _(config: PublishedTabularConfig, own: str) -> Transform:
    return PublishedTableBuilder(config, own).transform()


@described.register
def _(config: PublishedImageConfig, own: str) -> Transform:
    return PublishedImageBuilder(config, own).transform()
