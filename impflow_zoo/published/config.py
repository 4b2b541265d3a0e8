"""Configs of converted models: those of ours, with what only published weights need."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from impflow_zoo.lipschitz.activations import ACTIVATIONS
from impflow_zoo.models.fields import ConfigError, require, require_pairs, require_sizes
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.table_config import TabularConfig
from impflow_zoo.published.activations import PUBLISHED
from impflow_zoo.published.layers import spaces

__all__ = ["PublishedImageConfig", "PublishedTabularConfig"]


def _require_norm(norm: str, layers: int) -> None:
    """Refuse a norm that is none between so many layers."""
    try:
        spaces(norm, layers)
    except ValueError as error:
        raise ConfigError(str(error)) from None


@dataclass(frozen=True)
class PublishedTabularConfig(TabularConfig):
    """A flow on vectors as published weights describe one.

    Arguments:
        actnorm_ends: put an `ActNorm` before the first and after the last block as well.
        centred_actnorm: in the form `CentredActNorm`.
        preactivation: every net starts with an activation; spectral nets alone, like the next two.
        norm: norms of the layers, see `PublishedMLP`.
        stored_norms: keep power vectors as they are loaded, see `PublishedMLP`.
        Others are those of `TabularConfig`.
    """

    kind: ClassVar[str] = "published-tabular"
    activations: ClassVar[Mapping[str, type[nn.Module]]] = {**ACTIVATIONS, **PUBLISHED}

    actnorm_ends: bool = False
    centred_actnorm: bool = False
    preactivation: bool = False
    norm: str = "2"
    stored_norms: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_norm(self.norm, len(self.hidden_features) + 1)
        if self.preactivation:
            require_pairs(self, "features", [self.features])
        for name, plain in (("preactivation", False), ("norm", "2"), ("stored_norms", False)):
            value = getattr(self, name)
            if self.net != "spectral" and value != plain:
                raise ConfigError(f"{name}={value!r} needs net='spectral'")


@dataclass(frozen=True)
class PublishedImageConfig(ImageConfig):
    """A multi-scale flow on images as published weights describe one.

    Arguments:
        preactivation: every convolutional net but the first one of the model starts with an
            activation, and every fully connected one.
        first_preactivation: the first one does so too.
        norm: norms of the layers of `"conv"` and fully connected nets, see `PublishedMLP`.
        stored_norms: keep power vectors as they are loaded, see `PublishedMLP`.
        centred_actnorm: every `ActNorm` in the form `CentredActNorm`.
        fc_blocks: number of fully connected blocks on the flattened map at the end.
        fc_hidden: sizes of their hidden layers.
        Others are those of `ImageConfig`.
    """

    kind: ClassVar[str] = "published-image"
    activations: ClassVar[Mapping[str, type[nn.Module]]] = {**ACTIVATIONS, **PUBLISHED}

    preactivation: bool = True
    first_preactivation: bool = False
    norm: str = "2"
    stored_norms: bool = False
    centred_actnorm: bool = False
    fc_blocks: int = 0
    fc_hidden: tuple[int, ...] = (128, 128)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.fc_blocks >= 0, "fc_blocks", self.fc_blocks, "at least 0")
        require_sizes(self, "fc_hidden")
        if self.net != "conv" and (self.norm != "2" or self.stored_norms):
            raise ConfigError(
                f"net={self.net!r} has the 2-norm only: leave norm and stored_norms out, or take "
                "net='conv'"
            )
        _require_norm(self.norm, len(self.kernels))
        if self.fc_blocks:
            require_pairs(self, "fc_hidden", self.fc_hidden)
            if self.preactivation:
                require_pairs(self, "features", [math.prod(self.scales[-1])])
            _require_norm(self.norm, len(self.fc_hidden) + 1)

    def require_starts(self, *, plain: int) -> None:
        if self.preactivation:
            super().require_starts(plain=0 if self.first_preactivation else plain)

    @property
    def least_size(self) -> int:
        """How many numbers the weights hold at least; more if a block has more than one net."""
        features = math.prod(self.scales[-1])
        sizes = (features, *self.fc_hidden, features)
        fully = self.fc_blocks * sum(m * n for m, n in itertools.pairwise(sizes))
        return super().least_size + fully

    def _net_size(self, channels: int, pixels: int) -> int:
        # Layers between other norms may have no vectors.
        return super()._net_size(channels, pixels if self.norm == "2" else 0)
