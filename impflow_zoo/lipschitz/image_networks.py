"""Convolutional networks `g(x)` or `g(x, context)` with `Lip(g) <= lipschitz` in `x`.

A dense layer `h -> [a h, b f(W h)]` has the constant `sqrt(a^2 + (b |W|)^2)`, as the squares of
both parts of a difference add up: at most 1 for `a^2 + b^2 = 1` and `|W| <= 1`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.lipschitz.activations import expansion
from impflow_zoo.lipschitz.convolutions import LipschitzConv2d
from impflow_zoo.lipschitz.folded_convolutions import FoldedConvolutions
from impflow_zoo.lipschitz.folded_layers import FoldedLayers
from impflow_zoo.lipschitz.net import LipschitzNet, check_sizes
from impflow_zoo.numerics.settings import is_whole

__all__ = ["LipschitzConvNet", "LipschitzDenseNet"]


def _shape(channels: int, image_size: tuple[int, int]) -> tuple[int, int, int]:
    """The shape of an image, if its sizes are positive."""
    if isinstance(image_size, int) or len(image_size) != 2:
        raise ValueError(f"image_size={image_size}: height and width are needed, such as (32, 32)")
    check_sizes(channels=channels, image_size=tuple(image_size))
    return (channels, *image_size)


class ImageNet(LipschitzNet):
    """What convolutional nets share. Sub-classes make `layers`."""

    def form(self, plain: FoldedLayers) -> FoldedLayers:
        parts = plain.functions, plain.weights, plain.biases, plain.first, plain.mixing
        return FoldedConvolutions(plain.shape, *parts)


class LipschitzConvNet(ImageNet):
    """A convolutional net with a bounded Lipschitz constant.

    Every convolution gets an equal share of the constant. An unconstrained linear map of the
    context, one number per channel, is added before each hidden activation: the bound is only on
    `x`.

    References:
        Residual Flows for Invertible Generative Modeling (Chen et al., 2019), appendix E
        https://arxiv.org/abs/1906.02735

    Arguments:
        channels: channels of input and output.
        image_size: height and width of the images.
        width: channels of the hidden layers.
        kernels: size of each convolution, odd numbers.
        activation: see `LipschitzMLP`.
        preactivation: start with an activation instead of a convolution.
        lipschitz: bound on the Lipschitz constant, in the 2-norm.
        context_features: size of a context row, or None.
        frequency: initial value of the learned frequencies of the channels, see `LipschitzMLP`.

    Raises:
        ValueError: for sizes, kernels, a bound or a frequency out of their ranges, and for unknown
            activations.

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
        activation: str | type[nn.Module] = "lipswish",
        preactivation: bool = False,
        lipschitz: float = 0.9,
        context_features: int | None = None,
        *,
        frequency: float | None = None,
    ) -> None:
        if not isinstance(kernels, Sequence) or not kernels:
            raise ValueError(f"kernels={kernels}: sizes of convolutions are needed, such as (3, 1)")
        check_sizes(width=width, kernels=tuple(kernels))
        hidden = [width] * (len(kernels) - 1)
        super().__init__(_shape(channels, image_size), lipschitz, context_features)
        self.start(activation, hidden, frequency, first=channels if preactivation else None)
        before = zip([channels, *hidden], [self.first, *self.activations], strict=True)
        inputs = [n * expansion(a) for n, a in before]
        self.layers = nn.ModuleList(
            LipschitzConv2d(n, m, kernel, image_size, lipschitz ** (1 / len(kernels)))
            for n, m, kernel in zip(inputs, [*hidden, channels], kernels, strict=True)
        )


class LipschitzDenseNet(ImageNet):
    """The net `g` of an invertible DenseNet: each layer sees the outputs of all earlier layers.

    A layer is the learnable concatenation `[a h, b act(conv(h))]` with positive `a`, `b` and
    `a^2 + b^2 = 1`, whose Lipschitz constant is at most 1. The norm of the last convolution is at
    most `lipschitz`.

    References:
        Invertible DenseNets with Concatenated LipSwish (Perugachi-Diaz et al., 2021), section 3
        https://arxiv.org/abs/2102.02694

    Arguments:
        channels: channels of input and output.
        image_size: height and width of the images.
        growth: channels of a layer's convolution, which the activation may double.
        depth: number of dense layers.
        kernel: size of their convolutions, odd; the last convolution is 1x1.
        activation: see `LipschitzMLP`.
        lipschitz: bound on the Lipschitz constant in the 2-norm.
        context_features: size of a context row, or None.

    Raises:
        ValueError: for sizes or a bound out of their ranges, and for unknown activations.

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
        activation: str | type[nn.Module] = "clipswish",
        lipschitz: float = 0.9,
        context_features: int | None = None,
    ) -> None:
        check_sizes(growth=growth, kernel=kernel)
        if not (is_whole(depth) and depth >= 0):
            raise ValueError(f"depth={depth!r}: a number of layers is needed, 0 or more")
        super().__init__(_shape(channels, image_size), lipschitz, context_features)
        self.start(activation, [growth] * depth)
        convolutions, width = [], channels
        for a in self.activations:
            convolutions.append(LipschitzConv2d(width, growth, kernel, image_size, 1.0))
            width += growth * expansion(a)
        convolutions.append(LipschitzConv2d(width, channels, 1, image_size, lipschitz))
        self.layers = nn.ModuleList(convolutions)
        # softplus of these, normalised: equal parts at the start
        self.concatenation = nn.Parameter(torch.zeros(depth, 2))

    def mixing(self) -> list[tuple[Tensor, Tensor]]:
        both = functional.normalize(functional.softplus(self.concatenation), dim=1)
        return [(old, new) for old, new in both]

    def proved_bound(self) -> float:
        *dense, last = self.lipschitz_layers()
        bound: float = last.norm_bound()
        for layer, (old, new) in zip(dense, self.mixing(), strict=True):
            bound *= math.hypot(old.item(), new.item() * layer.norm_bound())
        return bound
