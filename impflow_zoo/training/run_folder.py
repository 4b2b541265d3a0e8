"""The folder of a training run: what may start in it, what may go on, and the recipes in it."""

from __future__ import annotations

import warnings
from pathlib import Path

from impflow_zoo.models.config import ModelError
from impflow_zoo.models.folder import (
    CHECKPOINT,
    CONFIG,
    GOLDEN,
    LOG,
    RECIPE,
    TRAINING,
    WEIGHTS,
)
from impflow_zoo.models.writing import write_whole
from impflow_zoo.recipe import Recipe, differences, read_recipe, with_seed
from impflow_zoo.runlog import read_lines
from impflow_zoo.training.checkpoint import CheckpointError

__all__ = [
    "CHECKPOINT",
    "check_new",
    "check_resumed",
    "check_unsaved",
    "keep_recipe",
]


def check_new(folder: Path, recipe_file: Path, seed: int | None = None) -> None:
    """Refuse to start where the run would overwrite what it has not written.

    What is left of a run that ended before its first checkpoint may be overwritten.

    Arguments:
        folder: where the run is to go.
        recipe_file: its recipe, which may lie there, if no other `seed` is to be put into it.
        seed: in place of the recipe's.

    Raises:
        ModelError: if the folder holds another run, a model, or files of the names a run writes.
    """
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file: --out takes a folder")
    if (folder / CHECKPOINT).exists():
        raise CheckpointError(f"{folder} holds a run already: --resume it, or choose another --out")
    if (folder / WEIGHTS).exists():
        raise ModelError(f"{folder} holds the weights of a model: choose another --out")
    if (folder / LOG).exists():
        return
    for name in (CONFIG, GOLDEN, RECIPE, TRAINING):
        path = folder / name
        own = path.resolve() == recipe_file.resolve() and seed is None  # else it would change
        if path.exists() and not own:
            raise ModelError(f"{folder} holds a {name} of something else: choose another --out")


def check_resumed(folder: Path, recipe: Recipe) -> None:
    """Refuse to go on with another recipe than the run's, but for its card and further stages.

    Raises:
        CheckpointError: naming what differs.
    """
    path = folder / RECIPE
    known = read_recipe(path) if path.is_file() else recipe
    changed = differences(known, recipe, more_stages=True)
    if changed:
        anew = f"start a new run from its weights with --init-from {folder}"
        if not (folder / WEIGHTS).is_file():
            anew = "start a new run with another --out"
        raise CheckpointError(
            f"{folder} was trained with another recipe ({', '.join(changed)}): resume with {path}, "
            f"or {anew}"
        )


def check_unsaved(
    folder: Path, recipe_file: Path, recipe: Recipe, seed: int | None, *, starts: bool
) -> None:
    """Refuse to begin a run anew that ended before its first checkpoint, unless it is the same.

    Arguments:
        folder, recipe_file, seed: as in `check_new`.
        recipe: what the file holds.
        starts: whether a model to start from is named.

    Raises:
        CheckpointError: if the recipe differs, or the run had started from a model's weights.
        ModelError: as in `check_new`.
    """
    if (folder / LOG).exists():
        check_resumed(folder, recipe)
        if not starts and any(
            {"before", "init_from"} & line.keys() for line in read_lines(folder / LOG)
        ):
            raise CheckpointError(
                f"{folder} had started from the weights of a model and holds no checkpoint yet: "
                "name the model again with --init-from"
            )
    else:
        check_new(folder, recipe_file, seed)
    warnings.warn(
        f"there is no {folder / CHECKPOINT} yet: training starts from the beginning", stacklevel=3
    )


def keep_recipe(folder: Path, text: bytes, seed: int | None) -> None:
    """Write the recipe of a run into its folder, with the seed that was asked for in its place."""
    write_whole(folder / RECIPE, text if seed is None else with_seed(text, seed))
