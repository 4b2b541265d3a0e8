"""From a config to the parts of the nflows flow that it describes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from nflows.distributions import StandardNormal
from nflows.transforms import CompositeTransform, Permutation, SqueezeTransform, Transform
from torch import Tensor, nn

from impflow_zoo.lipschitz.image_networks import LipschitzConvNet, LipschitzDenseNet
from impflow_zoo.lipschitz.perceptron import LipschitzMLP
from impflow_zoo.lipschitz.sandwich import SandwichMLP
from impflow_zoo.models.columns import angles_of, on_plain
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.mixed import block_kind, made, off_meta, require_transform
from impflow_zoo.models.table_config import TabularConfig
from impflow_zoo.models.table_transform import table_transform
from impflow_zoo.transforms.actnorm import ActNorm
from impflow_zoo.transforms.dequantisation import VariationalDequantisation
from impflow_zoo.transforms.images import Flatten, ImageLogit, Multiscale
from impflow_zoo.transforms.labels import OneHotContext, PerLabel
from impflow_zoo.transforms.radial import RadialTransform
from impflow_zoo.transforms.torus import TorusNet
from impflow_zoo.transforms.whitening import Whitening
from impflow_zoo.transforms.whole import WholeTransform

__all__ = ["ImageBuilder", "TableBuilder", "described"]


class Noise(StandardNormal):
    """nflows' standard normal in the type of the model: nflows samples in float32."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__(shape)
        self.to(torch.get_default_dtype())

    def _log_prob(self, inputs: Tensor, context: Tensor | None) -> Tensor:
        z = inputs.flatten(1)  # the constant of nflows is as rough as its type
        return -0.5 * (z**2).sum(dim=1) - 0.5 * z.shape[1] * math.log(2 * math.pi)

    def _sample(self, num_samples: int, context: Tensor | None) -> Tensor:
        samples: Tensor = super()._sample(num_samples, context)
        return samples.to(next(self.buffers()).dtype)


class _Builder:
    """Makes the map of a flow that a config describes, of a model's own kind of block."""

    actnorm: type[ActNorm] = ActNorm

    def __init__(self, config: Any, own: str) -> None:
        self.config, self.own, self.count = config, own, 0

    def block(self, net: Callable[[], nn.Module], name: str = "", number: int = 0) -> Transform:
        """The next block, of the model's own kind or another one; residual blocks have a seed each.

        Arguments:
            net: makes a net, for kinds of blocks that take some.
            name: of the kind; empty for the model's own.
            number: the block's position among all, which other kinds are told.
        """
        name = name or self.own
        kind = block_kind(name)
        if isinstance(kind, type):
            self.count += 1
            return made(kind, net, self.config, self.count - 1)
        with off_meta():
            return require_transform(kind(self.config, number), f"the function of block {name!r}")


class TableBuilder(_Builder):
    """Makes the map of a flow on vectors."""

    config: TabularConfig

    def transform(self) -> Transform:
        """Rows, `[B, D]`, to noise, `[B, D]`."""
        whitening = on_plain(self.config, Whitening) if self.config.whiten else []
        return table_transform(self.config, [*whitening, *self.steps()])

    def steps(self) -> Iterator[Transform]:
        """The blocks and what is between them."""
        config = self.config
        names = ("",) * config.blocks if isinstance(config.blocks, int) else config.blocks
        for i, name in enumerate(names):
            if config.actnorm and i:
                yield from on_plain(config, self.actnorm)
            if config.radial:
                yield from on_plain(config, RadialTransform)
            yield self.block(self.net, name, i)
        if config.radial:
            yield from on_plain(config, RadialTransform)

    def net(self) -> nn.Module:
        """A new net."""
        angles = angles_of(self.config)
        return TorusNet(self.square_net(len(angles)), angles) if angles else self.square_net()

    def square_net(self, more: int = 0) -> nn.Module:
        """A new net of this many more features than the model has."""
        config = self.config
        sizes, activation = (config.features + more, config.hidden_features), config.activation
        assert activation is not None, "a config fills it in"
        constant, context = config.lipschitz, config.embedded_features
        kind = SandwichMLP if config.net == "sandwich" else LipschitzMLP
        frequency: Any = {} if config.frequency is None else {"frequency": config.frequency}
        return kind(*sizes, activation, constant, context, **frequency)


class ImageBuilder(_Builder):
    """Makes the map of a flow on images."""

    config: ImageConfig

    def transform(self) -> Transform:
        """Images in [0, 1], `[B, C, H, W]`, to noise, `[B, D]`.

        Without factor-out the noise is the last map, flattened. With it, the second half of the
        channels leaves after the squeeze of each scale but the last, and the noise is what left, in
        order, then the last map.
        """
        config = self.config
        steps: list[Transform] = [ImageLogit(config.alpha)]
        if config.dequantisation == "variational":
            steps.insert(0, VariationalDequantisation(config.channels, 2**config.bits))
        if config.squeeze_first:
            steps.append(SqueezeTransform())
        scales = [CompositeTransform(list(self.scale(i))) for i in range(len(config.blocks))]
        if config.factor_out:
            *halves, end = config.scales
            leaving = [(2 * c, height // 2, width // 2) for c, height, width in halves]
            scales = [Multiscale(scales, [*leaving, (math.prod(end),)])]
        steps += scales
        classes = config.classes
        if classes:
            return OneHotContext(steps, config.shape, classes)
        return WholeTransform(steps, config.shape, config.context_features)

    def scale(self, i: int) -> Iterator[Transform]:
        """The steps of a scale, what leads to the next one included."""
        config, (channels, height, width) = self.config, self.config.scales[i]
        if config.whiten:
            yield Whitening(channels)
            if config.radial:
                yield RadialTransform(channels)
        elif i == 0 and config.actnorm:
            yield self.actnorm(channels)
        for _ in range(config.blocks[i]):
            first = self.count == 0
            yield self.block(partial(self.net, (channels, height, width), first=first))
            if config.actnorm:
                yield self.actnorm(channels)
        if i + 1 == len(config.blocks):
            yield from self.end((channels, height, width))
            return
        yield SqueezeTransform()
        if config.factor_out:  # nflows emits the first half: let that be the second one
            yield Permutation(torch.arange(4 * channels).roll(-2 * channels))

    def end(self, shape: tuple[int, int, int]) -> Iterator[Transform]:
        """The steps after the blocks of the last scale."""
        yield Flatten(shape)
        if self.config.classes:
            yield PerLabel(math.prod(shape), self.config.classes)

    def net(self, shape: tuple[int, int, int], *, first: bool) -> nn.Module:
        """A new net for maps of a shape, of the first block or of another one."""
        config, (channels, height, width) = self.config, shape
        sizes = (channels, (height, width), config.width)
        constants = (config.lipschitz, config.classes or config.context_features)
        if config.net == "dense":
            depth, kernel = len(config.kernels) - 1, config.kernels[0]
            return LipschitzDenseNet(*sizes, depth, kernel, config.activation, *constants)
        layers = config.kernels, config.activation, config.preactivation and not first
        return LipschitzConvNet(*sizes, *layers, *constants, frequency=config.frequency)


@functools.singledispatch
def described(config: Any, own: str) -> Transform:
    """The map data -> noise that a config describes; `own` names the kind of the model's blocks."""
    raise TypeError(f"nothing is built from {type(config).__name__}")


@described.register
def _(config: TabularConfig, own: str) -> Transform:
    return TableBuilder(config, own).transform()


@described.register
def _(config: ImageConfig, own: str) -> Transform:
    return ImageBuilder(config, own).transform()
