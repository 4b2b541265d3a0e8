"""From a config to the nflows transform it describes."""

from __future__ import annotations

from collections.abc import Callable

from nflows.transforms import CompositeTransform, Transform
from torch import nn

from impflow_zoo.lipschitz.networks import LipschitzMLP
from impflow_zoo.lipschitz.sandwich import SandwichMLP
from impflow_zoo.models.build_image import BlockFactory, build_image
from impflow_zoo.models.config import Config, ImageConfig, TabularConfig
from impflow_zoo.transforms.actnorm import ActNorm, CentredActNorm
from impflow_zoo.transforms.standardise import Standardise
from impflow_zoo.transforms.whitening import Whitening

__all__ = ["BlockFactory", "build_transform"]


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
