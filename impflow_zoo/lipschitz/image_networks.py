"""Convolutional networks `g(x)` or `g(x, context)` with `Lip(g) <= lipschitz` in `x`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.lipschitz.activations import expansion, folded, make_activation, watched
from impflow_zoo.lipschitz.arguments import (
    check_bound,
    check_context,
    check_context_size,
    check_sizes,
)
from impflow_zoo.lipschitz.bound_convolutions import Convolution, Convolutions, Function
from impflow_zoo.lipschitz.convolutions import LipschitzConv2d
from impflow_zoo.lipschitz.induced import is_uniform, make_convolution, spaces
from impflow_zoo.lipschitz.norms import normalised
from impflow_zoo.numerics.settings import is_whole

__all__ = ["LipschitzConvNet", "LipschitzDenseNet"]


class _ImageNet(nn.Module):
    """What nets on images share: the shape they take, the context, the bound."""

    layers: nn.ModuleList
    activations: nn.ModuleList
    context_layers: nn.ModuleList

    def __init__(
        self,
        channels: int,
        image_size: tuple[int, int],
        lipschitz: float,
        context_features: int | None,
    ) -> None:
        super().__init__()
        check_bound(lipschitz)
        check_context_size(context_features)
        if isinstance(image_size, int) or len(image_size) != 2:
            raise ValueError(f"image_size={image_size}: height and width are needed, as (32, 32)")
        check_sizes(channels=channels, image_size=tuple(image_size))
        self.shape = (channels, *image_size)
        self.lipschitz: float | None = float(lipschitz)
        self.context_features = context_features

    def _convolutions(self) -> list[LipschitzConv2d]:
        return cast("list[LipschitzConv2d]", list(self.layers))

    def _check(self, x: Tensor, context: Tensor | None) -> None:
        if x.dim() != 4 or x.shape[1:] != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(f"input of shape {tuple(x.shape)}: this net takes [B, {expected}]")
        check_context(context, len(x), self.context_features)

    def _hidden(
        self, h: Tensor, i: int, context: Tensor | None, scale: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensor | float]:
        """Layer `i` of `scale * h` with its context and activation, less the scalar after that."""
        function, before, after = folded(self.activations[i])
        h = self.layers[i](h, input_scale=scale, output_scale=before)
        if self.context_features and context is not None:
            h = h + before * self.context_layers[i](context)[:, :, None, None]
        return function(h), after

    def _bound_layers(
        self, context: Tensor | None, *, fold: bool, scale: Tensor | float = 1.0
    ) -> tuple[list[Function], list[Convolution], list[Tensor | float]] | None:
        """The layers at a context, normalised once; None if parts of the net are watched.

        Arguments:
            context: one context per row, or None.
            fold: take the scalar after each activation into the next layer.
            scale: of the input of the first layer.

        Returns:
            Functions, convolutions, and the scalars after the functions.
        """
        layers = self._convolutions()
        plain = all(
            isinstance(layer, LipschitzConv2d) and type(layer).forward is LipschitzConv2d.forward
            for layer in layers
        )
        if not plain or any(watched(module) for module in self.modules()):
            return None
        check_context(context, 0 if context is None else len(context), self.context_features)
        functions: list[Function] = []
        convolutions: list[Convolution] = []
        scalars: list[Tensor | float] = []
        normal = normalised(layers)
        for i, activation in enumerate(self.activations):
            function, before, after = folded(activation)
            weight, bias = layers[i].scaled(normal[i], input_scale=scale, output_scale=before)
            added = None
            if self.context_features and context is not None:
                added = (before * self.context_layers[i](context))[:, :, None, None]
            functions.append(function)
            convolutions.append(Convolution(weight, bias, added))
            scalars.append(after)
            scale = after if fold else 1.0
        convolutions.append(Convolution(*layers[-1].scaled(normal[-1], input_scale=scale)))
        return functions, convolutions, scalars

    def _make_context_layers(self, widths: Sequence[int]) -> None:
        size = self.context_features
        self.context_layers = nn.ModuleList(nn.Linear(size, width) for width in widths if size)


class LipschitzConvNet(_ImageNet):
    """Convolutions and activations with a bounded Lipschitz constant, the whole net's.

    Every convolution gets an equal share of the constant. A context enters by an unconstrained
    linear map, one number per channel, added before each hidden activation: the bound is on `x`
    alone.

    References:
        Residual Flows for Invertible Generative Modeling (Chen et al., 2019), appendix E
        https://arxiv.org/abs/1906.02735

    Arguments:
        channels: channels of input and output.
        image_size: height and width of the images.
        width: channels in between.
        kernels: size of each convolution, odd numbers.
        activation: see `LipschitzMLP`.
        preactivation: start with an activation instead of a convolution.
        lipschitz: bound of the Lipschitz constant, in the 2-norm unless `norm` says otherwise.
        context_features: size of a context row, or None.
        norm: `"2"`, `"inf"`, or one character for each space between layers, see `spaces`; with
            others than the 2-norm nothing is known of the net in advance.
        stored_norms: as in `LipschitzMLP`.

    Example:
        >>> net = LipschitzConvNet(channels=3, image_size=(8, 8), width=16)
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
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
        super().__init__(channels, image_size, lipschitz, context_features)
        if not isinstance(kernels, Sequence) or not kernels:
            raise ValueError(f"kernels={kernels}: a size for each convolution is needed, as (3, 1)")
        check_sizes(width=width, kernels=tuple(kernels))
        share = lipschitz ** (1 / len(kernels))
        if stored_norms or norm == "inf" or not is_uniform(norm):
            self.lipschitz = None  # the layers' norms do not bound it in the 2-norm
        widths = [channels, *[width] * (len(kernels) - 1), channels]
        self.first = make_activation(activation, channels) if preactivation else None
        self.activations = nn.ModuleList(make_activation(activation, width) for _ in kernels[1:])
        expansions = [expansion(self.first), *(expansion(a) for a in self.activations)]
        self.layers = nn.ModuleList(
            make_convolution(n * k, m, kernel, image_size, share, space, stored=stored_norms)
            for n, m, k, kernel, space in zip(
                widths[:-1],
                widths[1:],
                expansions,
                kernels,
                spaces(norm, len(kernels)),
                strict=True,
            )
        )
        self._make_context_layers(widths[1:-1])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluate the net.

        Arguments:
            x: images with shape `[B, channels, H, W]`.
            context: context with shape `[B, context_features]`, needed if the net has one.

        Raises:
            ValueError: if the input or the context is missing or has the wrong shape.
        """
        self._check(x, context)
        h, scale = x, cast("Tensor | float", 1.0)
        if self.first is not None:
            function, before, scale = folded(self.first)
            h = function(before * h)
        for i in range(len(self.activations)):
            h, scale = self._hidden(h, i, context, scale)
        return self.layers[-1](h, input_scale=scale)

    def bind(self, context: Tensor | None) -> Convolutions | None:
        """As in `LipschitzMLP`."""
        first, scale = None, cast("Tensor | float", 1.0)
        if self.first is not None:
            function, before, scale = folded(self.first)
            first = (function, before)
        found = self._bound_layers(context, fold=True, scale=scale)
        if found is None:
            return None
        functions, convolutions, _ = found
        return Convolutions(self.shape, functions, convolutions, first)

    def certificate(self) -> float:
        """Upper bound of the Lipschitz constant of the net as it is, in the 2-norm."""
        return math.prod(layer.norm_bound() for layer in self._convolutions())


class LipschitzDenseNet(_ImageNet):
    """An invertible DenseNet's `g`: each layer sees what all layers before it found.

    A layer appends its features by the learnable concatenation `[a h, b act(conv(h))]` with
    positive `a^2 + b^2 = 1`, whose constant is at most 1; the last convolution brings the
    whole to `lipschitz`.

    References:
        Invertible DenseNets with Concatenated LipSwish (Perugachi-Diaz et al., 2021), section 3
        https://arxiv.org/abs/2102.02694

    Arguments:
        channels: channels of input and output.
        image_size: height and width of the images.
        growth: channels that a layer's convolution adds, before the activation doubles them or not.
        depth: number of dense layers.
        kernel: size of their convolutions, odd; the last convolution is 1x1.
        activation: see `LipschitzMLP`.
        lipschitz: bound of the Lipschitz constant in the 2-norm.
        context_features: size of a context row, or None.

    Example:
        >>> net = LipschitzDenseNet(channels=3, image_size=(8, 8), growth=8, depth=2)
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        growth: int = 64,
        depth: int = 3,
        kernel: int = 3,
        activation: str = "clipswish",
        lipschitz: float = 0.9,
        context_features: int | None = None,
    ) -> None:
        super().__init__(channels, image_size, lipschitz, context_features)
        check_sizes(growth=growth, kernel=kernel)
        if not (is_whole(depth) and depth >= 0):
            raise ValueError(f"depth={depth!r}: a number of layers is needed, 0 or more")
        self.activations = nn.ModuleList(make_activation(activation, growth) for _ in range(depth))
        convolutions, width = [], channels
        for a in self.activations:
            convolutions.append(LipschitzConv2d(width, growth, kernel, image_size, 1.0))
            width += growth * expansion(a)
        convolutions.append(LipschitzConv2d(width, channels, 1, image_size, lipschitz))
        self.layers = nn.ModuleList(convolutions)
        # softplus of these, normalised: equal parts at the start
        self.concatenation = nn.Parameter(torch.zeros(depth, 2))
        self._make_context_layers([growth] * depth)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluate the net; arguments and errors as in `LipschitzConvNet`."""
        self._check(x, context)
        h = x
        for i, (old, new) in enumerate(self._parts()):
            found, after = self._hidden(h, i, context)
            h = torch.cat((old * h, new * after * found), dim=1)
        return self.layers[-1](h)

    def bind(self, context: Tensor | None) -> Convolutions | None:
        """As in `LipschitzMLP`."""
        found = self._bound_layers(context, fold=False)
        if found is None:
            return None
        functions, convolutions, scalars = found
        pairs = zip(self._parts(), scalars, strict=True)
        parts = [(old, new * after) for (old, new), after in pairs]
        return Convolutions(self.shape, functions, convolutions, parts=parts)

    def _parts(self) -> Tensor:
        return functional.normalize(functional.softplus(self.concatenation), dim=1)

    def certificate(self) -> float:
        """Upper bound of the Lipschitz constant of the net as it is, in the 2-norm."""
        *dense, last = self._convolutions()
        bound = last.norm_bound()
        for layer, (old, new) in zip(dense, self._parts().tolist(), strict=True):
            bound *= math.hypot(old, new * layer.norm_bound())
        return bound
