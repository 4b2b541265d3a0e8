"""From a config to the nflows transform it describes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from nflows.transforms import ActNorm, CompositeTransform, PointwiseAffineTransform, Transform
from torch import Tensor, nn

from impflow_zoo.lipschitz.networks import LipschitzMLP
from impflow_zoo.models.config import Config, TabularConfig
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.transforms.base import ResidualBlock

__all__ = ["BlockFactory", "build_transform", "decode", "encode"]

BlockFactory = Callable[[Callable[[], nn.Module], LogDet], ResidualBlock]


def build_transform(config: Config, block: BlockFactory) -> Transform:
    """The whole map data -> noise, preprocessing included.

    Arguments:
        config: what the model is made of.
        block: makes one block from a maker of nets and its log-det settings.
    """
    return _BUILDERS[type(config)](config, block)


def _build_tabular(config: TabularConfig, block: BlockFactory) -> Transform:
    def net() -> nn.Module:
        return LipschitzMLP(
            config.features,
            config.hidden_features,
            activation=config.activation,
            lipschitz=config.lipschitz,
            context_features=config.context_features,
        )

    steps: list[Transform] = [
        PointwiseAffineTransform(torch.zeros(config.features), torch.ones(config.features))
    ]
    for i in range(config.blocks):
        if config.actnorm and i:
            steps.append(ActNorm(config.features))
        steps.append(block(net, config.logdet.seeded(config.seed, i)))
    return CompositeTransform(steps)


_BUILDERS: dict[type, Callable[..., Transform]] = {TabularConfig: _build_tabular}


def encode(transform: Transform, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Data -> noise without the log-determinants of our blocks."""
    if isinstance(transform, CompositeTransform):
        for step in transform._transforms:
            x = encode(step, x, context)
        return x
    if isinstance(transform, ResidualBlock):
        return transform.encode(x, context)
    return transform(x, context)[0]


def decode(transform: Transform, z: Tensor, context: Tensor | None = None) -> Tensor:
    """Noise -> data without the log-determinants of our blocks."""
    if isinstance(transform, CompositeTransform):
        for step in reversed(transform._transforms):
            z = decode(step, z, context)
        return z
    if isinstance(transform, ResidualBlock):
        return transform.decode(z, context)
    return transform.inverse(z, context)[0]
