"""The folder of a training run: what may start in it, what may go on, and the recipe in it."""

from __future__ import annotations

import warnings
from pathlib import Path

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.folder import (
    CHECKPOINT,
    CONFIG,
    GOLDEN,
    LOG,
    RECIPE,
    TRAINING,
    WEIGHTS,
    ModelFolder,
)
from impflow_zoo.recipe import Recipe, differences, read_recipe
from impflow_zoo.runlog import read_lines
from impflow_zoo.training.checkpoint import CheckpointError

__all__ = ["check_run"]


def check_run(
    folder: ModelFolder,
    recipe_file: Path,
    recipe: Recipe,
    *,
    resume: bool,
    new_seed: bool,
    init_from: str | None,
) -> None:
    """Refuse to train where the run would overwrite what it has not written, or go on otherwise.

    What is left of a run that ended before its first checkpoint may be overwritten.

    Arguments:
        folder: where the run is to go, or is.
        recipe_file: its recipe, which may lie there, if no new seed is to be put into it.
        recipe: what is to be trained.
        resume: whether the run is to go on.
        new_seed: whether the seed is not that of the file.
        init_from: the model to start from, if one is named.

    Raises:
        CheckpointError: if the run in the folder is another one than is to go on, naming what
            differs, or is to be overwritten.
        ModelError: if the folder holds a model, or files of the names that a run writes.
    """
    if resume and folder.has(CHECKPOINT):
        if init_from is not None:
            raise ModelError("--resume goes on from the run's own weights: leave --init-from out")
        _check_same(folder, recipe)
        return
    if resume and folder.has(LOG):
        _check_same(folder, recipe)
        lines = read_lines(folder.path / LOG)
        if init_from is None and any({"before", "init_from"} & line.keys() for line in lines):
            raise CheckpointError(
                f"{folder.name} had started from the weights of a model and holds no checkpoint "
                "yet: name the model again with --init-from"
            )
    else:
        _check_new(folder, recipe_file, new_seed=new_seed)
    if resume:
        warnings.warn(
            f"there is no {folder.path / CHECKPOINT} yet: training starts from the beginning",
            stacklevel=3,
        )


def _check_new(folder: ModelFolder, recipe_file: Path, *, new_seed: bool) -> None:
    name = folder.name
    if folder.path.exists() and not folder.path.is_dir():
        raise ModelError(f"{name} is a file: --out takes a folder")
    if folder.has(CHECKPOINT):
        raise CheckpointError(f"{name} holds a run already: --resume it, or choose another --out")
    if folder.has(WEIGHTS):
        raise ModelError(f"{name} holds the weights of a model: choose another --out")
    if folder.has(LOG):
        return
    for file in (CONFIG, GOLDEN, RECIPE, TRAINING):
        path = folder.path / file
        own = path.resolve() == recipe_file.resolve() and not new_seed  # else it would change
        if path.exists() and not own:
            raise ModelError(f"{name} holds a {file} of something else: choose another --out")


def _check_same(folder: ModelFolder, recipe: Recipe) -> None:
    """The recipe may differ from the run's in its card, and may have further stages."""
    path = folder.path / RECIPE
    known = read_recipe(path) if path.is_file() else recipe
    changed = differences(known, recipe, more_stages=True)
    if changed:
        anew = f"start a new run from its weights with --init-from {folder.name}"
        if not folder.has(WEIGHTS):
            anew = "start a new run with another --out"
        raise CheckpointError(
            f"{folder.name} was trained with another recipe ({', '.join(changed)}): resume with "
            f"{path}, or {anew}"
        )
