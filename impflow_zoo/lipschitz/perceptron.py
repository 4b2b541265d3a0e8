"""What bounded perceptrons share: how they are called, and how they are taken apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.lipschitz.activations import Scaled, folded, slopes, watched
from impflow_zoo.lipschitz.arguments import (
    check_bound,
    check_context,
    check_context_size,
    check_sizes,
)
from impflow_zoo.lipschitz.bound_perceptron import BoundPerceptron
from impflow_zoo.lipschitz.lipsdp import AffineMaps
from impflow_zoo.lipschitz.norms import LipschitzLayer, normalised
from impflow_zoo.numerics.settings import is_real

__all__ = ["Perceptron", "Scale", "is_frequency"]

Scale = Tensor | float

_WIDEST = 8.0  # logarithm of a frequency: beyond it products of frequencies leave float32


def is_frequency(number: float) -> bool:
    """Whether learned frequencies may start there."""
    return 1e-3 <= number <= 1e3


class Perceptron(nn.Module):
    """Affine maps with an activation between them; contexts are added before each activation.

    Sub-classes make `activations` and `layers`, and define `affine`.

    A learned frequency `w` of a neuron puts `f(w t) / w` in the place of `f(t)`: the slopes are the
    same, so are the bounds, and both factors are multiplied into the weights.
    """

    layers: nn.ModuleList

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int],
        lipschitz: float,
        context_features: int | None,
        frequency: float | None,
    ) -> None:
        super().__init__()
        check_bound(lipschitz)
        if isinstance(hidden_features, int):
            raise ValueError(
                f"hidden_features={hidden_features}: a size for each hidden layer is needed, as "
                f"({hidden_features},)"
            )
        self.hidden_features = tuple(hidden_features)
        check_sizes(features=features, hidden_features=self.hidden_features)
        check_context_size(context_features)
        if frequency is not None and not (is_real(frequency) and is_frequency(frequency)):
            raise ValueError(f"frequency={frequency!r}: a number from 0.001 to 1000 is needed")
        self.features, self.context_features = features, context_features
        self.first: nn.Module | None = None
        self.activations = nn.ModuleList()
        self.log_frequencies = nn.ParameterList(
            torch.full((width,), math.log(frequency))
            for width in self.hidden_features
            if frequency is not None
        )
        self.context_layers = nn.ModuleList(
            nn.Linear(context_features, width) for width in self.hidden_features if context_features
        )

    def affine(
        self, weights: Sequence[Tensor], i: int, before: Scale, after: Scale
    ) -> tuple[Tensor, Tensor]:
        """Weight and bias of `after * layer_i(before * x)`.

        Arguments:
            weights: the normalised weights of all layers.
            i: number of the layer.
            before: a scalar, or a factor for each column.
            after: a scalar, or a factor for each row.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define its affine maps")

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluate the net.

        Arguments:
            x: input with shape `[B, features]`.
            context: context with shape `[B, context_features]`, needed if the net has one.

        Raises:
            ValueError: if a context is missing or has the wrong shape.
        """
        self._check(x, context)
        h: Tensor = x
        scale: Scale = 1.0
        if self.first is not None:
            function, before, scale = folded(self.first)
            h = function(before * h)
        for i, activation in enumerate(self.activations):
            function, before, after = folded(activation)
            before, after = self._tuned(i, before, after)
            h = self.apply_layer(i, h, scale, before)
            if self.context_features and context is not None:
                h = h + before * self.context_layers[i](context)
            h, scale = function(h), after
        return self.apply_layer(-1, h, scale, 1.0)

    def apply_layer(self, i: int, h: Tensor, before: Scale, after: Scale) -> Tensor:
        """`after * layer_i(before * h)`, the weights scaled instead of the rows."""
        layers = cast(list[LipschitzLayer], list(self.layers))
        i %= len(layers)
        # A layer's map is made of its own weight, and perhaps of that before it.
        weights: list[Tensor] = [layer.weight for layer in layers]
        for j in range(max(i - 1, 0), i + 1):
            weights[j] = layers[j].normalised_weight()
        return functional.linear(h, *self.affine(weights, i, before, after))

    def is_plain(self) -> bool:
        """Whether nothing but the code of this package runs when the net is called."""
        layers = all(isinstance(layer, LipschitzLayer) for layer in self.layers)
        return layers and not any(watched(module) for module in self.modules())

    def bind(self, context: Tensor | None) -> BoundPerceptron | None:
        """The net at a context, its weights normalised once; None if parts of it are watched."""
        if not self.is_plain():
            return None
        check_context(context, 0 if context is None else len(context), self.context_features)
        normal = normalised(cast(list[LipschitzLayer], list(self.layers)), one_node=True)
        functions, weights, biases = [], [], []
        scale: Scale = 1.0
        if self.first is not None:
            function, before, scale = folded(self.first)
            like = normal[0]
            identity = torch.eye(self.features, dtype=like.dtype, device=like.device)
            functions.append(function)
            weights.append(before * identity)
            biases.append(like.new_zeros(self.features))
        for i, activation in enumerate(self.activations):
            function, before, after = folded(activation)
            before, after = self._tuned(i, before, after)
            weight, bias = self.affine(normal, i, scale, before)
            if self.context_features and context is not None:
                added: nn.Module = self.context_layers[i]
                bias = bias + before * added(context)
            functions.append(function)
            weights.append(weight)
            biases.append(bias)
            scale = after
        weight, bias = self.affine(normal, len(self.layers) - 1, scale, 1.0)
        return BoundPerceptron(functions, (*weights, weight), (*biases, bias))

    @torch.no_grad()
    def maps(self) -> AffineMaps | None:
        """The affine maps as evaluation multiplies by them, in float64, and the slopes between.

        None for activations whose slopes are not known, that have hooks, or that come first: no
        semidefinite certificate is known here for these.
        """
        ranges = {slopes(a) for a in self.activations} or {(0.0, 1.0)}
        hooks = any(watched(activation) for activation in self.activations)
        if self.first is not None or hooks or len(ranges) != 1 or None in ranges:
            return None
        (found,) = ranges
        assert found is not None
        normal = normalised(cast(list[LipschitzLayer], list(self.layers)), training=False)
        weights, scale = [], cast(Scale, 1.0)
        for i in range(len(self.activations)):
            before, after = self.scales(i)
            weights.append(self.affine(normal, i, scale, before)[0].double())
            scale = after
        weights.append(self.affine(normal, -1, scale, 1.0)[0].double())
        return AffineMaps(tuple(weights), found)

    def scales(self, i: int) -> tuple[Scale, Scale]:
        """What stands before and after the core of an activation, frequencies included."""
        activation = self.activations[i]
        before: Scale = 1.0
        after: Scale = 1.0
        if isinstance(activation, Scaled):
            before, after = activation.scales()
        return self._tuned(i, before, after)

    def _tuned(self, i: int, before: Scale, after: Scale) -> tuple[Scale, Scale]:
        """The scales around an activation, with the frequencies of its neurons."""
        if not self.log_frequencies:
            return before, after
        logarithm = self.log_frequencies[i].clamp(-_WIDEST, _WIDEST)
        return before * logarithm.exp(), after * (-logarithm).exp()

    def _check(self, x: Tensor, context: Tensor | None) -> None:
        if x.dim() != 2 or x.shape[1] != self.features:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: this net takes [B, {self.features}]"
            )
        check_context(context, len(x), self.context_features)
