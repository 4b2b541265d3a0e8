"""Nets that may start with an activation, and keep the power vectors of published weights.

With layers from the `p`-norm of one space to that of the next, the constants multiply as in the
2-norm, from the norm of the first space to that of the last.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from impflow_zoo.lipschitz.activations import expansion, make_activation
from impflow_zoo.lipschitz.image_networks import LipschitzConvNet
from impflow_zoo.lipschitz.norms import LipschitzLinear
from impflow_zoo.lipschitz.perceptron import LipschitzMLP
from impflow_zoo.lipschitz.published_layers import PublishedConv2d, PublishedLinear, spaces

__all__ = ["PublishedConvNet", "PublishedMLP"]


class PublishedMLP(LipschitzMLP):
    """A `LipschitzMLP` that may start with an activation and have layers between p-norms.

    Arguments:
        features, hidden_features, activation, lipschitz: as in `LipschitzMLP`.
        norm: norms of the spaces between layers, see `spaces`, of layers that keep the power
            vectors they are given; nothing is known of the net in advance then. None takes the
            layers of `LipschitzMLP`.
        preactivation: start with an activation instead of a linear layer.
    """

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (128, 128),
        activation: str = "sin",
        lipschitz: float = 0.99,
        *,
        norm: str | None = None,
        preactivation: bool = False,
    ) -> None:
        super().__init__(features, hidden_features, activation, lipschitz)
        if preactivation:
            self.first = make_activation(activation, features)
        sizes = [(*own.weight.shape[::-1], own.coefficient) for own in self.lipschitz_layers()]
        sizes[0] = (expansion(self.first) * features, *sizes[0][1:])
        if norm is None:
            self.layers = nn.ModuleList(LipschitzLinear(*size) for size in sizes)
        else:
            self.lipschitz = None  # the layers' norms do not bound it in the 2-norm
            between = zip(sizes, spaces(norm, len(sizes)), strict=True)
            self.layers = nn.ModuleList(PublishedLinear(*size).between(s) for size, s in between)


class PublishedConvNet(LipschitzConvNet):
    """A `LipschitzConvNet` with layers between p-norms, which keep the vectors they are given.

    Arguments:
        channels, image_size, width, kernels, activation, preactivation, lipschitz: as in
            `LipschitzConvNet`.
        norm: as in `PublishedMLP`.
    """

    def __init__(
        self,
        channels: int,
        image_size: tuple[int, int],
        width: int,
        kernels: Sequence[int],
        activation: str,
        preactivation: bool,
        lipschitz: float,
        *,
        norm: str = "2",
    ) -> None:
        super().__init__(channels, image_size, width, kernels, activation, preactivation, lipschitz)
        self.lipschitz = None  # as in `PublishedMLP`
        layers = nn.ModuleList()
        for own, space in zip(self.lipschitz_layers(), spaces(norm, len(kernels)), strict=True):
            outputs, inputs, kernel, _ = own.weight.shape
            layer = PublishedConv2d(inputs, outputs, kernel, image_size, own.coefficient)
            layers.append(layer.between(space))
        self.layers = layers
