"""Which models of the zoo are alike: the fast tests take one of them."""

from __future__ import annotations

from pathlib import Path

from impflow_zoo.models.filenames import RECIPE
from impflow_zoo.training.recipe import read_recipe

__all__ = ["kind"]


def kind(folder: Path) -> tuple[object, ...]:
    """The family of a model, the type of its config, and what else its answers depend on."""
    config = read_recipe(folder / RECIPE).config
    has = map(bool, (config.columns, config.context_features, config.periodic))
    return folder.name.partition("-")[0], type(config), *has
