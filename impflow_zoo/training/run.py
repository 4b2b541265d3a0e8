"""From a recipe to a folder that `from_pretrained` loads."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from impflow_zoo.models.classes import model_class
from impflow_zoo.models.fields import ModelError, convert
from impflow_zoo.models.folder import CHECKPOINT, RECIPE, ModelFolder
from impflow_zoo.models.writing import write_whole
from impflow_zoo.processes import together
from impflow_zoo.recipe import read_recipe, with_seed
from impflow_zoo.registry import locate
from impflow_zoo.training.checkpoint import checkpoint_state
from impflow_zoo.training.run_folder import check_new, check_resumed
from impflow_zoo.training.splits import open_splits, with_columns
from impflow_zoo.training.trainer import Trainer

__all__ = ["train"]

_LARGEST = 1e10  # numbers of a model: with gradients and averages 200 GB


def train(
    recipe_file: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    init_from: str | None = None,
    seed: int | None = None,
    max_minutes: float | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train what a recipe describes.

    Launched as several processes (`accelerate launch`, `torchrun`) they share each batch: the
    steps are those of one process, whatever their number. The first one writes.

    Arguments:
        recipe_file: path of a recipe.
        data: Hub id, local folder or file, or `toy:NAME` in place of the recipe's data set.
        out: folder for model, log and checkpoint; None is `runs/NAME`, with the name of the
            recipe's folder.
        resume: go on from the checkpoint in `out`, bit by bit as if never interrupted; with the
            same recipe and the same rows. Without a checkpoint, start from the beginning.
        init_from: start from the weights of a model (a name of the zoo, a Hub id or a folder)
            instead of random ones. What these had cost is not counted.
        seed: in place of the recipe's; to be given again with `resume`.
        max_minutes: stop then, with a checkpoint.
        device: where to train; None takes a GPU if there is one.
        progress: show a bar on stderr.

    Returns:
        The last state: step, rows seen, seconds, the best mean log-likelihood of a validation in
        nats, and more.

    Raises:
        ConfigError, DataError, ModelError: for mistakes in recipe, data or folders.
    """
    path = Path(recipe_file)
    data = None if data is None else os.fspath(data)
    recipe = read_recipe(path)
    if seed is not None:
        seed = convert(seed, int, "seed")
        recipe = recipe.with_seed(seed)
    folder = Path(out) if out is not None else Path("runs") / path.resolve().parent.name
    own = path if seed is None else None
    if resume:
        resume = check_resumed(ModelFolder(folder), own, recipe, init_from)
    else:
        check_new(ModelFolder(folder), own)
    least = recipe.config.least_size
    if least > _LARGEST:
        raise ModelError(
            f"the config asks for {least:.3g} numbers or more: take fewer blocks or smaller sizes"
        )
    processes = together(device)
    resume = processes.gather(resume)[0]  # all have looked before anybody writes
    train_rows, validation_rows = open_splits(recipe, data)
    torch.manual_seed(recipe.training.seed)
    config = with_columns(recipe.config, train_rows)
    model = model_class(recipe.model)(config).to(processes.device)
    start = None if init_from is None else ModelFolder.open(locate(init_from))
    first = checkpoint_state(folder / CHECKPOINT).get("stage", 0) if resume else 0
    kept = path.read_bytes() if seed is None else with_seed(path.read_bytes(), seed)
    if resume and processes.first:
        write_whole(folder / RECIPE, kept)  # which may have more stages now
    deadline = None if max_minutes is None else time.perf_counter() + 60 * max_minutes
    for stage, settings in enumerate(recipe.runs[first:], start=first):
        trainer = Trainer(
            model,
            settings,
            train_rows,
            validation_rows,
            folder,
            stage=stage,
            processes=processes,
            progress=progress,
        )
        if resume and stage == first:
            trainer.resume()
        elif stage:
            trainer.go_on()
        else:
            trainer.prepare(start)
            if processes.first:
                write_whole(folder / RECIPE, kept)
        if not trainer.finished:
            trainer.run(deadline)
        if trainer.stopped or not trainer.finished or trainer.state["best"] is None:
            break
    return dict(trainer.state)
