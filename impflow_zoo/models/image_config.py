"""The config of a flow on images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from impflow_zoo.lipschitz.activations import ACTIVATIONS
from impflow_zoo.models.fields import (
    MOST_BLOCKS,
    convert_fields,
    require,
    require_choice,
    require_sizes,
    require_tolerances,
)
from impflow_zoo.models.model_config import ModelConfig
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solver import Solver

__all__ = ["ImageConfig", "Preparation"]

_MOST_PIXELS = 4096  # of a side
_WIDEST_KERNEL = 15


@dataclass(frozen=True)
class Preparation:
    """How the images of a data set are preprocessed.

    Arguments:
        crop: side of the square cut from the middle, or None.
        resize: scale to the model's size (by area averages); False refuses other sizes.
        grey: convert between colour and grey; False refuses images that need it.
    """

    crop: int | None = None
    resize: bool = False
    grey: bool = False

    def __post_init__(self) -> None:
        require_sizes(self, "crop")


@dataclass(frozen=True)
class ImageConfig(ModelConfig):
    """A multi-scale flow on images: dequantisation, logit, blocks of Lipschitz convolutions.

    A scale consists of blocks, each followed by an ActNorm; between scales 2x2 pixels are squeezed
    into channels.

    References:
        Residual Flows for Invertible Generative Modeling (Chen et al., 2019), appendix E
        https://arxiv.org/abs/1906.02735

    Arguments:
        channels: 3 for colours, 1 for grey.
        image_size: height and width.
        bits: bits per channel that are modelled; below 8, the lowest bits of the data are dropped.
        dequantisation: `"uniform"`, or `"variational"` with a `VariationalDequantisation` in front.
        alpha: images in [0, 1] are mapped to `logit(alpha + (1 - 2 alpha) x)`.
        prepare: how the images of a data set are preprocessed.
        blocks: number of blocks in each scale.
        net: `"conv"` (`LipschitzConvNet`) or `"dense"` (`LipschitzDenseNet`).
        width: channels of the hidden layers; in dense nets, channels that a layer adds.
        kernels: sizes of the convolutions of a net; a dense net has a layer for all but the last.
        activation: activation of every net, see `LipschitzMLP`.
        preactivation: every convolutional net but the first one of the model also starts with an
            activation.
        frequency: initial value of the learned frequencies of the channels, see
            `LipschitzConvNet`; None for no learned frequencies.
        lipschitz: bound on every net's Lipschitz constant, below 1.
        squeeze_first: squeeze once more, before the first scale.
        actnorm: put an `ActNorm` before the first block and after every block.
        whiten: start each scale with a `Whitening`, the first one in place of its ActNorm.
        radial: scale the channels of every position by a `RadialTransform` after the `Whitening`
            of each scale; needs `whiten`.
        factor_out: after each scale but the last, half of the channels become latents.
        context_features: size of a context row, or None for an unconditional density. Contexts
            that are no labels are taken as they are: scale them to about 1.
        context_columns: name of the label column that the images are conditioned on. The nets see
            labels as one-hot vectors.
        classes: number of labels; labels are whole numbers from 0.
        class_names: names of the labels in the order of their numbers, for data sets whose labels
            are text or names of folders.
        logdet: how log-determinants are computed.
        solver: how roots are found.
        seed: seed of the probes and of the noise in evaluation.
    """

    kind: ClassVar[str] = "image"
    metric: ClassVar[str] = "bits_per_dim"

    channels: int = 3
    image_size: tuple[int, ...] = (32, 32)
    bits: int = 8
    dequantisation: str = "uniform"
    alpha: float = 0.05
    prepare: Preparation = field(default_factory=Preparation)
    blocks: tuple[int, ...] = (1, 1, 1)
    net: str = "conv"
    width: int = 64
    kernels: tuple[int, ...] = (3, 1, 3)
    activation: str = "lipswish"
    preactivation: bool = True
    frequency: float | None = None
    lipschitz: float = 0.9
    squeeze_first: bool = False
    actnorm: bool = True
    whiten: bool = False
    radial: bool = False
    factor_out: bool = False
    context_features: int | None = None
    context_columns: tuple[str, ...] = ()
    classes: int | None = None
    class_names: tuple[str, ...] = ()
    logdet: LogDet = field(default_factory=LogDet)
    solver: Solver = field(default_factory=Solver)
    seed: int = 0

    def __post_init__(self) -> None:
        convert_fields(self)
        require(self.channels in (1, 3), "channels", self.channels, "1 or 3")
        require(len(self.image_size) == 2, "image_size", self.image_size, "height and width")
        require_sizes(self, "image_size", most=_MOST_PIXELS)
        require(1 <= self.bits <= 8, "bits", self.bits, "between 1 and 8")
        require_choice("dequantisation", self.dequantisation, ("uniform", "variational"))
        require_tolerances(self.solver)
        require(0 < self.alpha < 0.5, "alpha", self.alpha, "between 0 and 0.5")
        require(bool(self.blocks), "blocks", self.blocks, "one number for each scale")
        require_sizes(self, "blocks", most=MOST_BLOCKS)
        halvings = 2 ** (len(self.blocks) - 1 + self.squeeze_first)
        expected = f"multiples of {halvings} for {len(self.blocks)} scales"
        whole = not any(n % halvings for n in self.image_size)
        require(whole, "image_size", self.image_size, expected)
        if self.class_names and self.classes is None:
            object.__setattr__(self, "classes", len(self.class_names))
        if self.context_columns or self.classes:
            one, given = len(self.context_columns) == 1, self.context_features
            require(one, "context_columns", self.context_columns, "the name of one column")
            require(2 <= (self.classes or 0) <= 256, "classes", self.classes, "between 2 and 256")
            require(given in (None, 1), "context_features", given, "1 for a label")
            object.__setattr__(self, "context_features", 1)
            names, expected = self.class_names, f"{self.classes} different names"
            each = not names or len({*names}) == len(names) == self.classes
            require(each, "class_names", names, expected)
        require_sizes(self, "width", "context_features")
        require_sizes(self, "kernels", most=_WIDEST_KERNEL)
        seen = len(self.kernels) > 1 or self.context_features is None
        require(seen, "kernels", self.kernels, "two or more, as the context needs a hidden layer,")
        require_choice("net", self.net, ("conv", "dense"))
        require(self.whiten or not self.radial, "radial", self.radial, "false without whiten")
        odd = bool(self.kernels) and all(k % 2 for k in self.kernels)
        require(odd, "kernels", self.kernels, "odd sizes")
        require_choice("activation", self.activation, ACTIVATIONS)
        none = self.frequency is None or self.net == "conv"
        require(none, "frequency", self.frequency, "null in dense nets")
        require(0 < self.lipschitz < 1, "lipschitz", self.lipschitz, "between 0 and 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, channels first."""
        height, width = self.image_size
        return self.channels, height, width

    @property
    def scales(self) -> list[tuple[int, int, int]]:
        """Shape of the maps in each scale."""
        shapes, (channels, height, width) = [], self.shape
        for i in range(len(self.blocks)):
            if i or self.squeeze_first:
                channels *= 2 if i and self.factor_out else 4
                height, width = height // 2, width // 2
            shapes.append((channels, height, width))
        return shapes
