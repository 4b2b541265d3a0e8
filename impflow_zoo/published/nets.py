"""Nets between p-norms, with the activations and the power vectors of published weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import expansion, folded, make_activation
from impflow_zoo.lipschitz.bound_perceptron import BoundPerceptron
from impflow_zoo.lipschitz.image_networks import LipschitzConvNet
from impflow_zoo.lipschitz.lipsdp import AffineMaps
from impflow_zoo.lipschitz.perceptron import LipschitzMLP
from impflow_zoo.published.activations import activation_of
from impflow_zoo.published.layers import PublishedConv2d, PublishedLinear, spaces

__all__ = ["PublishedConvNet", "PublishedMLP"]


class PublishedMLP(LipschitzMLP):
    """A `LipschitzMLP` that may start with an activation and have layers between p-norms.

    Arguments:
        features, hidden_features, lipschitz, context_features, frequency: as in `LipschitzMLP`.
        activation: a name that `activation_of` knows.
        norm: `"2"`, `"inf"`, or one character for each space between layers, see `spaces`.
            `"inf"` divides whole matrices and bounds the net in the infinity-norm; `f` for every
            space shrinks rows one by one, as published code does. With other norms than 2 nothing
            is known of the net in the 2-norm in advance.
        preactivation: start with an activation instead of a linear layer.
        stored_norms: keep power vectors as they are loaded instead of bringing them to
            convergence; the bound is not known then.
    """

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (128, 128),
        activation: str = "sin",
        lipschitz: float = 0.99,
        context_features: int | None = None,
        *,
        frequency: float | None = None,
        norm: str = "2",
        preactivation: bool = False,
        stored_norms: bool = False,
    ) -> None:
        kind: type[nn.Module] = activation_of(activation)
        super().__init__(
            features, hidden_features, kind, lipschitz, context_features, frequency=frequency
        )
        norms = spaces(norm, len(self.layers))
        self.norm = "inf" if norm == "inf" else "2"
        if stored_norms or set(norms) != {(2, 2)}:
            self.lipschitz = None  # the layers' norms do not bound it in the 2-norm
        self.first = make_activation(kind, features) if preactivation else None
        layers = nn.ModuleList()
        times = expansion(self.first)
        for own, space in zip(self.bounded_layers(), norms, strict=True):
            outputs, inputs = own.weight.shape
            layer = PublishedLinear(inputs * times, outputs, own.coefficient)
            layer.start(space, stored=stored_norms, whole=norm == "inf")
            times = 1
            layers.append(layer)
        self.layers = layers

    def apply_layer(self, i: int, h: Tensor) -> Tensor:
        return super().apply_layer(i, h if i or self.first is None else self.first(h))

    def bind(self, context: Tensor | None) -> BoundPerceptron | None:
        if self.first is None or not self.is_plain():
            return super().bind(context)
        self.check_context(context)
        function, before, after = folded(self.first)
        bound = self.at(context, after)
        like = bound.weights[0]
        identity = torch.eye(self.features, dtype=like.dtype, device=like.device)
        return BoundPerceptron(
            (function, *bound.functions),
            (before * identity, *bound.weights),
            (like.new_zeros(self.features), *bound.biases),
        )

    def maps(self) -> AffineMaps | None:
        return super().maps() if self.first is None and self.norm == "2" else None


class PublishedConvNet(LipschitzConvNet):
    """A `LipschitzConvNet` with layers between p-norms.

    Arguments:
        channels, image_size, width, kernels, preactivation, lipschitz, context_features: as in
            `LipschitzConvNet`.
        activation, norm, stored_norms: as in `PublishedMLP`; `"inf"` is `f` for every space.
    """

    def __init__(
        self,
        channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        width: int = 64,
        kernels: Sequence[int] = (3, 1, 3),
        activation: str = "lipswish",
        preactivation: bool = False,
        lipschitz: float = 0.9,
        context_features: int | None = None,
        *,
        norm: str = "2",
        stored_norms: bool = False,
    ) -> None:
        kind: type[nn.Module] = activation_of(activation)
        super().__init__(
            channels, image_size, width, kernels, kind, preactivation, lipschitz, context_features
        )
        norms = spaces(norm, len(self.layers))
        if stored_norms or set(norms) != {(2, 2)}:
            self.lipschitz = None  # as in `PublishedMLP`
        layers = nn.ModuleList()
        for own, space in zip(self.bounded_layers(), norms, strict=True):
            outputs, inputs, kernel, _ = own.weight.shape
            layer = PublishedConv2d(inputs, outputs, kernel, image_size, own.coefficient)
            layer.start(space, stored=stored_norms)
            layers.append(layer)
        self.layers = layers
