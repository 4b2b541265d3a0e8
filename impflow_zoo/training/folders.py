"""The folder of a training: one run at a time, and whether it may begin there, or go on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import (
    CHECKPOINT,
    CONFIG,
    GOLDEN,
    LOCK,
    LOG,
    RECIPE,
    TRAINING,
    WEIGHTS,
)
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.training.checkpoint import CheckpointError
from impflow_zoo.training.facts import TrainingFacts
from impflow_zoo.training.recipe import CardSettings, Recipe, differences, read_recipe

__all__ = [
    "check_new",
    "check_resumed",
    "check_resumed_ensemble",
    "check_start",
    "kept_recipe",
    "only_run",
]

_BUSY = "another run trains in {}: wait until it ends, or choose another --out"
_OWN_WEIGHTS = "--resume continues from the run's own weights: leave --init-from out"


@contextmanager
def only_run(folder: Path, busy: str = _BUSY) -> Iterator[None]:
    """Keep other runs, of this process or another, out of a folder within the block.

    The kernel holds the lock, so a run that is killed frees it; its empty lock file stays until the
    next run ends. A block that writes nothing leaves no folder behind.

    Arguments:
        folder: the folder, which may not exist yet.
        busy: what the error says of the folder.

    Raises:
        ModelError: if another run is in the folder.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
        while not file.exists():  # its last holder deleted it when this one had opened it
            lock.release()
            lock.acquire(timeout=0)
    except Timeout:
        raise ModelError(busy.format(folder)) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps open files, and folders may have others
            file.unlink(missing_ok=True)
            for path in made:
                path.rmdir()
        lock.release()


def check_new(folder: ModelFolder, own: Path | None) -> None:
    """Refuse to train where the run would overwrite what it has not written.

    The files of a run that ended before its first checkpoint may be overwritten.

    Arguments:
        folder: where the run is to go.
        own: its recipe, which may lie there; None if that is not to be kept as it is.

    Raises:
        ModelError: if the folder holds a run, a model, or files of the names that a run writes.
    """
    name = folder.name
    if folder.has(CHECKPOINT):
        raise CheckpointError(f"{name} holds a run already: --resume it, or choose another --out")
    others = () if folder.has(LOG) else (CONFIG, GOLDEN, RECIPE, TRAINING)
    for file in (WEIGHTS, *others):
        path = folder.path / file
        if path.exists() and (own is None or path.resolve() != own.resolve()):
            raise ModelError(f"{name} holds a {file} of something else: choose another --out")


def check_resumed(
    folder: ModelFolder, own: Path | None, recipe: Recipe, init_from: str | None
) -> bool:
    """Whether there is a checkpoint to go on from.

    Arguments:
        folder, own: as in `check_new`.
        recipe: what is to be trained.
        init_from: the model to start from, if one is named.

    Raises:
        CheckpointError: if the run in the folder is another one than is to go on, naming what
            differs.
        ModelError: as `check_new`, where nothing has been trained yet.
    """
    if folder.has(CHECKPOINT):
        if init_from is not None:
            raise ModelError(_OWN_WEIGHTS)
        _check_same(folder, recipe)
        return True
    if folder.has(LOG):
        if folder.has(WEIGHTS):
            raise CheckpointError(
                f"{folder.name} holds weights but no {CHECKPOINT} to go on from: start a new run "
                "with another --out (and --init-from for these weights)"
            )
        _check_same(folder, recipe)
        begun = TrainingFacts.read(folder.path) if folder.has(TRAINING) else None
        if init_from is None and begun is not None and (begun.init_from or begun.parts):
            raise CheckpointError(
                f"{folder.name} started from the weights of a model and holds no checkpoint "
                "yet: name the model again with --init-from"
            )
    else:
        check_new(folder, own)
    warnings.warn(
        f"there is no {folder.path / CHECKPOINT} yet: training starts from the beginning",
        stacklevel=4,
    )
    return False


def check_resumed_ensemble(folder: ModelFolder, own: Path | None, recipe: Recipe) -> None:
    """Refuse to go on with an ensemble in a folder that holds something else.

    Arguments:
        folder, own: as in `check_new`.
        recipe: what is to be trained.

    Raises:
        CheckpointError: if the folder holds a single training, or an ensemble of another recipe.
        ModelError: as `check_new`, where there is no ensemble yet.
    """
    if folder.has(CHECKPOINT) or folder.has(LOG):
        raise CheckpointError(
            f"{folder.name} holds a single training, not an ensemble: choose another --out"
        )
    if folder.has(TRAINING) and folder.has(RECIPE):
        _check_same(folder, recipe)
    else:
        check_new(folder, own)


def check_start(members: Sequence[ModelFolder], start: ModelFolder | None) -> None:
    """Refuse to go on with an ensemble whose trainings would start from different weights.

    Arguments:
        members: the folders of its trainings.
        start: the model that those start from which have not begun; None for random weights.

    Raises:
        ModelError: saying which model is needed, or that none is.
    """
    begun = [TrainingFacts.read(m.path).init_from for m in members if m.has(TRAINING)]
    waiting = not all(member.has(CHECKPOINT) for member in members)
    if not begun:
        return
    if start is not None and not waiting:
        raise ModelError(_OWN_WEIGHTS)
    if start is not None and start.public_name != begun[0]:
        first = begun[0] or "random weights"
        raise ModelError(f"the first training of the ensemble started from {first}: so must all")
    if start is None and begun[0] and waiting:
        raise ModelError(
            f"trainings of the ensemble that have not begun start from {begun[0]}: name it again "
            "with --init-from"
        )


def kept_recipe(folder: ModelFolder, recipe: Recipe, text: bytes) -> bytes:
    """The text of a recipe to keep in a run that goes on: the run's own, if it alone has a card.

    Arguments:
        folder: of the run.
        recipe: what is to be trained.
        text: of its file.

    Raises:
        ModelError: if the run's recipe has a card, the other has none, and they differ in more.
    """
    path, none = folder.path / RECIPE, CardSettings()
    if recipe.card != none or not path.is_file() or (own := read_recipe(path)).card == none:
        return text
    if replace(own, card=none) == recipe:
        return path.read_bytes()
    seeds = own.training.seed, recipe.training.seed
    if seeds[0] != seeds[1] or differences(own, recipe, more_stages=True):
        return text  # `check_resumed` refuses such a run, and says why
    raise ModelError(
        f"{path} has a card, which would be lost: copy it to the recipe that you train"
    )


def _check_same(folder: ModelFolder, recipe: Recipe) -> None:
    """The recipe may differ from the run's in its card, and may have further stages."""
    path = folder.path / RECIPE
    known = read_recipe(path) if path.is_file() else recipe
    begun, asked = known.training.seed, recipe.training.seed
    if begun != asked:
        raise CheckpointError(
            f"{folder.name} was started with seed {begun}, not {asked}: continue with "
            f"--seed {begun}"
        )
    changed = differences(known, recipe, more_stages=True)
    if changed:
        raise CheckpointError(
            f"{folder.name} was trained with another recipe ({', '.join(changed)}): resume with "
            f"{path}, or start a new run with another --out (and --init-from for its weights)"
        )
