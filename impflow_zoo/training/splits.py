"""The rows that a recipe trains on, and those that decide which weights are kept."""

from __future__ import annotations

from dataclasses import replace

from impflow_zoo.data import DataError, Source, TableSource, UnknownSplitError, is_toy
from impflow_zoo.models.config import Config
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.recipe import Recipe
from impflow_zoo.scoring import open_rows

__all__ = ["open_splits", "with_columns"]


def open_splits(recipe: Recipe, data: str | None) -> tuple[Source, Source]:
    """The training and validation rows of a recipe.

    Raises:
        DataError: if neither the recipe nor the user names a data set.
    """
    settings = recipe.data
    dataset = data or settings.dataset
    if dataset is None:
        raise DataError("this recipe names no data set: give a folder or a Hub id with --data")
    if settings.validation is None and settings.validation_rows is None:
        raise DataError(
            "the recipe names no rows that decide which weights are kept: set data.validation to a "
            "split, or data.validation_rows to a number of training rows to hold back"
        )
    revision = settings.revision if data is None else None
    skip = settings.corrupt == "skip"
    if settings.train_rows is not None and not any(map(is_toy, (dataset, settings.dataset))):
        raise DataError("data.train_rows is for toys, whose rows are made to any number")
    size = settings.train_rows if is_toy(dataset) else None  # another --data has its own number
    rows = open_rows(recipe.config, dataset, settings.train, revision, size, skip_corrupt=skip)
    held_out = settings.validation_rows
    if held_out is not None:
        if not 0 < held_out < len(rows):
            raise DataError(f"validation_rows={held_out}: {rows.name} has {len(rows)} rows")
        cut = len(rows) - held_out
        return rows.part(range(cut)), rows.part(range(cut, len(rows)))
    validation = settings.validation
    config = with_columns(recipe.config, rows)
    try:
        return rows, open_rows(config, dataset, validation, revision, skip_corrupt=skip)
    except UnknownSplitError as error:
        raise DataError(
            f"{error}; or set data.validation_rows in the recipe, to hold so many rows of "
            f"{settings.train!r} back"
        ) from None


def with_columns(config: Config, rows: Source) -> Config:
    """The config with the names of a table's columns, if it has none and they do.

    Rows with others are not to be scored in their place, nor these in another order.
    """
    if isinstance(config, ImageConfig) or not (isinstance(rows, TableSource) and rows.named):
        return config
    return replace(config, columns=rows.columns[: config.features])
