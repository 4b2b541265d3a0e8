"""Test runs of any command on a few rows: `IMPFLOW_ZOO_SMOKE=1` in the environment.

The same code runs with as few blocks, steps and rows as possible; its results mean nothing. Tests
run every command that the documents print in this way.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from impflow_zoo.recipe import Recipe

__all__ = ["VARIABLE", "few_rows", "smoke", "tiny"]

VARIABLE = "IMPFLOW_ZOO_SMOKE"
_ROWS = 8


def smoke() -> bool:
    """Whether the environment asks for it."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def few_rows(limit: int | None) -> int | None:
    """The number of rows to score where `limit` was asked for."""
    return limit if not smoke() else min(limit or _ROWS, _ROWS)


def tiny(recipe: Recipe) -> Recipe:
    """The recipe with one block for every scale and two steps, in a smoke run."""
    if not smoke():
        return recipe
    config: Any = recipe.config
    if isinstance(blocks := getattr(config, "blocks", None), int):
        config = replace(config, blocks=1)
    elif blocks is not None:  # of each scale; blocks that are named stay
        config = replace(config, blocks=tuple(1 if isinstance(n, int) else n for n in blocks))
    training, *stages = (
        replace(
            settings,
            steps=min(settings.steps, 2),
            batch_size=min(settings.batch_size, _ROWS),
            validation_limit=few_rows(settings.validation_limit),
        )
        for settings in (recipe.training, *recipe.stages)
    )
    rows = {
        name: min(value, 1000 if name == "train_rows" else _ROWS)
        for name in ("train_rows", "validation_rows")
        if (value := getattr(recipe.data, name)) is not None
    }
    data = replace(recipe.data, **rows)
    return replace(recipe, config=config, data=data, training=training, stages=tuple(stages))
