"""Configs of converted models: those of ours, with what only published weights need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from impflow_zoo.lipschitz.published_layers import spaces
from impflow_zoo.models.fields import MOST_BLOCKS, ConfigError, require, require_sizes
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.table_config import TabularConfig

__all__ = ["PublishedImageConfig", "PublishedTabularConfig"]


def _require(settings: Any, *, layers: int, **only: object) -> None:
    """Refuse norms that do not fit, and settings that published models do not have."""
    for name, value in only.items():
        found = getattr(settings, name)
        require(found == value, name, found, f"{value!r} for a converted model")
    try:
        spaces(settings.norm, layers)
    except ValueError as error:
        raise ConfigError(str(error)) from None


@dataclass(frozen=True)
class PublishedTabularConfig(TabularConfig):
    """A flow on vectors as published weights describe one: with `CentredActNorm`, at both ends too.

    Further arguments are those of `TabularConfig`.

    Arguments:
        preactivation: every net starts with an activation.
        norm: norms of the layers, see `spaces`.
    """

    kind: ClassVar[str] = "published-tabular"

    frequency: float | None = None
    preactivation: bool = False
    norm: str = "2"

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = len(self.hidden_features) + 1
        only: dict[str, object] = {"net": "spectral", "frequency": None, "periodic": {}}
        _require(self, layers=layers, context_features=None, **only)


@dataclass(frozen=True)
class PublishedImageConfig(ImageConfig):
    """A multi-scale flow on images as published weights describe one, with `CentredActNorm`.

    Further arguments are those of `ImageConfig`.

    Arguments:
        preactivation: as in `ImageConfig`, and every fully connected net starts with one.
        first_preactivation: the first net of the model does so too.
        norm: norms of the layers of all nets, see `spaces`.
        fc_blocks: number of fully connected blocks on the flattened map at the end.
        fc_hidden: sizes of their hidden layers.
    """

    kind: ClassVar[str] = "published-image"

    first_preactivation: bool = False
    norm: str = "2"
    fc_blocks: int = 0
    fc_hidden: tuple[int, ...] = (128, 128)

    def __post_init__(self) -> None:
        super().__post_init__()
        blocks, most = self.fc_blocks, f"between 0 and {MOST_BLOCKS:,}"
        require(0 <= blocks <= MOST_BLOCKS, "fc_blocks", blocks, most)
        require_sizes(self, "fc_hidden")
        only: dict[str, object] = {"net": "conv", "dequantisation": "uniform", "frequency": None}
        _require(self, layers=len(self.kernels), context_features=None, **only)
        if self.fc_blocks:
            _require(self, layers=len(self.fc_hidden) + 1)
