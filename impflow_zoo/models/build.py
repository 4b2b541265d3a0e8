"""From a config to the nflows transform it describes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from nflows.transforms import (
    CompositeTransform,
    MultiscaleCompositeTransform,
    Transform,
)
from torch import Tensor, nn

from impflow_zoo.lipschitz.networks import LipschitzMLP
from impflow_zoo.lipschitz.sandwich import SandwichMLP
from impflow_zoo.models.build_image import BlockFactory, build_image
from impflow_zoo.models.config import Config, ImageConfig, TabularConfig
from impflow_zoo.transforms.actnorm import ActNorm, CentredActNorm
from impflow_zoo.transforms.base import ResidualBlock
from impflow_zoo.transforms.standardise import Standardise
from impflow_zoo.transforms.whitening import Whitening

__all__ = ["BlockFactory", "build_transform", "decode", "encode"]


def build_transform(config: Config, block: BlockFactory) -> Transform:
    """The whole map data -> noise, preprocessing included.

    Arguments:
        config: what the model is made of.
        block: makes one block from a maker of nets and its log-det settings.
    """
    return _BUILDERS[type(config)](config, block)


def _build_tabular(config: TabularConfig, block: BlockFactory) -> Transform:
    def net() -> nn.Module:
        sizes, activation = (config.features, config.hidden_features), config.activation
        assert activation is not None, "a config fills it in"
        if config.net == "sandwich":
            frequency = 1.0 if config.frequency is None else config.frequency
            return SandwichMLP(
                *sizes, activation, config.lipschitz, config.context_features, frequency=frequency
            )
        return LipschitzMLP(
            *sizes,
            activation,
            config.lipschitz,
            config.context_features,
            frequency=config.frequency,
            norm=config.norm,
            preactivation=config.preactivation,
            stored_norms=config.stored_norms,
        )

    actnorm = CentredActNorm if config.centred_actnorm else ActNorm
    steps: list[Transform] = [Standardise(config.features)]
    if config.whiten:
        steps.append(Whitening(config.features))
    for i in range(config.blocks):
        if config.actnorm and (i or config.actnorm_ends):
            steps.append(actnorm(config.features))
        steps.append(block(net, config.logdet.seeded(config.seed, i)))
    if config.actnorm and config.actnorm_ends:
        steps.append(actnorm(config.features))
    return CompositeTransform(steps)


_BUILDERS: dict[type, Callable[..., Transform]] = {
    TabularConfig: _build_tabular,
    ImageConfig: build_image,
}


def encode(transform: Transform, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Data -> noise without the log-determinants of our blocks."""
    if isinstance(transform, CompositeTransform):
        for step in transform._transforms:
            x = encode(step, x, context)
        return x
    if isinstance(transform, MultiscaleCompositeTransform):
        left = []
        for step in transform._transforms[:-1]:
            leaving, x = encode(step, x, context).chunk(2, dim=transform._split_dim)
            left.append(leaving.flatten(1))
        return torch.cat((*left, encode(transform._transforms[-1], x, context).flatten(1)), dim=1)
    if isinstance(transform, ResidualBlock):
        return transform.encode(x, context)
    return transform(x, context)[0]


def decode(transform: Transform, z: Tensor, context: Tensor | None = None) -> Tensor:
    """Noise -> data without the log-determinants of our blocks."""
    if isinstance(transform, CompositeTransform):
        for step in reversed(transform._transforms):
            z = decode(step, z, context)
        return z
    if isinstance(transform, MultiscaleCompositeTransform):
        shapes = transform._output_shapes
        parts = z.split([math.prod(shape) for shape in shapes], dim=1)
        *left, last = (part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True))
        x = decode(transform._transforms[-1], last, context)
        for step, leaving in zip(transform._transforms[-2::-1], reversed(left), strict=True):
            x = decode(step, torch.cat((leaving, x), dim=transform._split_dim), context)
        return x
    if isinstance(transform, ResidualBlock):
        return transform.decode(z, context)
    return transform.inverse(z, context)[0]
