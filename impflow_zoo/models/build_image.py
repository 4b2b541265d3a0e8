"""From an image config to the multi-scale transform it describes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from nflows.transforms import (
    CompositeTransform,
    Permutation,
    SqueezeTransform,
    Transform,
)
from torch import nn

from impflow_zoo.lipschitz.image_networks import LipschitzConvNet, LipschitzDenseNet
from impflow_zoo.lipschitz.networks import LipschitzMLP
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.transforms.actnorm import ActNorm, CentredActNorm
from impflow_zoo.transforms.base import ResidualBlock
from impflow_zoo.transforms.images import BoundedLogit, Flatten, Multiscale
from impflow_zoo.transforms.whitening import Whitening

__all__ = ["BlockFactory", "build_image"]

BlockFactory = Callable[[Callable[[], nn.Module], LogDet], ResidualBlock]


def build_image(config: ImageConfig, block: BlockFactory) -> Transform:
    """Images in [0, 1], `[B, C, H, W]`, to noise, `[B, D]`.

    Without factor-out the noise is the last map, flattened. With it, the second half of the
    channels leaves after the squeeze of each scale but the last, and the noise is what left, in
    order, then the last map.

    Arguments:
        config: what the model is made of.
        block: makes one block from a maker of nets and its log-det settings.
    """
    scales = _Builder(config, block).scales()
    first: list[Transform] = [BoundedLogit(config.alpha, config.shape)]
    if config.squeeze_first:
        first.append(SqueezeTransform())
    if not config.factor_out:
        return CompositeTransform([*first, *scales])
    multiscale = Multiscale(len(scales))
    for i, (scale, (channels, height, width)) in enumerate(zip(scales, config.scales, strict=True)):
        last = i + 1 == len(scales)
        after = (channels * height * width,) if last else (4 * channels, height // 2, width // 2)
        multiscale.add_transform(scale, after)
    return CompositeTransform([*first, multiscale])


class _Builder:
    """Counts blocks, as the first net of a model has no preactivation and each block a seed."""

    def __init__(self, config: ImageConfig, block: BlockFactory) -> None:
        self.config, self.block, self.count = config, block, 0
        self.actnorm = CentredActNorm if config.centred_actnorm else ActNorm

    def scales(self) -> list[CompositeTransform]:
        """The steps of each scale."""
        last = len(self.config.blocks) - 1
        return [
            CompositeTransform(list(self._scale(shape, blocks, first=i == 0, last=i == last)))
            for i, (shape, blocks) in enumerate(
                zip(self.config.scales, self.config.blocks, strict=True)
            )
        ]

    def _scale(
        self, shape: tuple[int, int, int], blocks: int, *, first: bool, last: bool
    ) -> Iterator[Transform]:
        config, (channels, _, _) = self.config, shape
        if config.whiten:
            yield Whitening(channels)
        elif first and config.actnorm:
            yield self.actnorm(channels)
        for _ in range(blocks):
            yield self._block(self._image_net(shape, preactivation=self._preactivation))
            if config.actnorm:
                yield self.actnorm(channels)
        if not last:
            yield SqueezeTransform()
            if config.factor_out:  # nflows emits the first half: let that be the second one
                order = torch.arange(4 * channels).roll(-2 * channels)
                yield Permutation(order)
            return
        features = math.prod(shape)
        yield Flatten(shape)
        for _ in range(config.fc_blocks):
            yield self._block(self._fc_net(features))
            if config.actnorm:
                yield self.actnorm(features)

    @property
    def _preactivation(self) -> bool:
        config = self.config
        return config.preactivation and (self.count > 0 or config.first_preactivation)

    def _block(self, net: Callable[[], nn.Module]) -> ResidualBlock:
        block = self.block(net, self.config.logdet.seeded(self.config.seed, self.count))
        self.count += 1
        return block

    def _image_net(
        self, shape: tuple[int, int, int], *, preactivation: bool
    ) -> Callable[[], nn.Module]:
        config, (channels, height, width) = self.config, shape

        def conv() -> nn.Module:
            return LipschitzConvNet(
                channels,
                (height, width),
                config.width,
                config.kernels,
                config.activation,
                preactivation,
                config.lipschitz,
                config.context_features,
                norm=config.norm,
                stored_norms=config.stored_norms,
            )

        def dense() -> nn.Module:
            return LipschitzDenseNet(
                channels,
                (height, width),
                config.width,
                len(config.kernels) - 1,
                config.kernels[0],
                config.activation,
                config.lipschitz,
                config.context_features,
            )

        return {"conv": conv, "dense": dense}[config.net]

    def _fc_net(self, features: int) -> Callable[[], nn.Module]:
        config = self.config
        return lambda: LipschitzMLP(
            features,
            config.fc_hidden,
            activation=config.activation,
            lipschitz=config.lipschitz,
            context_features=config.context_features,
            norm=config.norm,
            preactivation=config.preactivation,
            stored_norms=config.stored_norms,
        )
