"""The rows of a data set as a model takes them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from impflow_zoo.data import DataError, ImageFormat, Source, open_source
from impflow_zoo.models.config import Config
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.image_config import ImageConfig

__all__ = ["open_rows", "source_options"]


def open_rows(
    config: Config,
    dataset: Any,
    split: str | None,
    revision: str | None = None,
    size: int | None = None,
    *,
    skip_corrupt: bool = False,
    weights: str | None = None,
) -> Source:
    """Open data for a model; the arguments are those of `open_source`.

    Raises:
        DataError: if they cannot be opened, or their rows are not what the model takes.
        ModelError: if the model takes contexts without names.
    """
    source = open_source(
        dataset,
        split,
        revision=revision,
        size=size,
        skip_corrupt=skip_corrupt,
        weights=weights,
        **source_options(config),
    )
    found, wanted = tuple(source.read([0]).rows.shape[1:]), config.shape
    wanted = (wanted[0] + len(config.context_columns), *wanted[1:])
    if found != wanted:
        raise DataError(
            f"{source.name}: rows of shape {list(found)}, the model takes {list(wanted)}"
        )
    return source


def source_options(config: Config) -> dict[str, Any]:
    """What a data loader has to know of a model."""
    given = config.context_columns
    if config.context_features and not given:
        raise ModelError(
            "this model's contexts have no names, so data sets cannot be read: name them in "
            "config.context_columns"
        )
    if isinstance(config, ImageConfig):
        height, width = config.image_size
        form = ImageFormat(
            config.channels,
            (height, width),
            **asdict(config.prepare),
            label=next(iter(given), None),
            classes=config.classes or 0,
            class_names=config.class_names,
        )
        return {"image": form}
    return {"columns": (*config.columns, *given) or None, "features": config.shape[0]}
