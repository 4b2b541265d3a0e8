"""From a recipe to a folder that `from_pretrained` loads."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from impflow_zoo.data import DataError, Source, TableSource, UnknownSplitError, is_toy
from impflow_zoo.data.outliers import refuse_outliers
from impflow_zoo.evaluation.baselines import gaussian_value
from impflow_zoo.evaluation.processes import Processes, together
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.config import Config
from impflow_zoo.models.fields import ModelError, convert
from impflow_zoo.models.filenames import CHECKPOINT, LOG, RECIPE
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.memory import enough_memory
from impflow_zoo.models.registry import locate, recipe_path
from impflow_zoo.models.rows import open_rows
from impflow_zoo.models.writing import write_whole
from impflow_zoo.numerics.modes import grad_mode
from impflow_zoo.numerics.settings import is_real
from impflow_zoo.training.checkpoint import CheckpointError, checkpoint_state
from impflow_zoo.training.ensembles import join
from impflow_zoo.training.folders import (
    check_new,
    check_resumed,
    check_resumed_ensemble,
    check_start,
    kept_recipe,
    only_run,
)
from impflow_zoo.training.recipe import Recipe, fingerprint, of_member, read_recipe, with_seed
from impflow_zoo.training.state import check_state
from impflow_zoo.training.trainer import Trainer

__all__ = ["open_splits", "train", "train_on"]

_NEEDS_LESS = (
    "a smaller training.batch_size of the recipe needs less, and so does a smaller model "
    "(config.blocks, hidden_features or width)"
)


def train(
    recipe_file: str | os.PathLike[str],
    *,
    data: Any = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    init_from: str | None = None,
    seed: int | None = None,
    max_minutes: float | None = None,
    device: str | torch.device | None = None,
    accept_outliers: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the model of a recipe.

    Several processes (`accelerate launch`, `torchrun`) share each batch and take the same steps as
    one process. The first process writes the files. An error in one of them ends all.

    Run several trainings in separate processes. In threads they share random numbers and change
    each other's results.

    Arguments:
        recipe_file: a `recipe.yaml`, a folder that holds one, or a name from `list_models`.
        data: Hub id, local folder or file, or `toy:NAME` in place of the recipe's data set; for
            tables also a DataFrame, a `datasets.Dataset`, or an array or tensor with shape
            `(N, D)`.
        out: folder for model, log and checkpoint; None is `runs/NAME`, with the name of the
            recipe's folder. If the recipe asks for an ensemble, each training has a folder
            `seed-SEED` in it.
        resume: continue from the checkpoint in `out`, exactly as if never interrupted; recipe and
            rows must be the same. Without a checkpoint or weights, start from the beginning.
        init_from: start from the weights of a model (a name of the zoo, a Hub id or a folder)
            instead of random ones. The cost of training that model is not counted. An ensemble that
            goes on needs it again, until all its trainings have begun.
        seed: overrides the seed of the recipe; to be given again with `resume`.
        max_minutes: write a checkpoint and stop after this time.
        device: device of the training; None takes a GPU if there is one.
        accept_outliers: train on values that are absurd for their column, such as 1e30 among
            hundreds, instead of refusing them.
        dry_run: train from the beginning in a temporary folder, two steps of each stage, and
            validate on eight rows: to see that recipe, data and memory fit.
        progress: show a progress bar on stderr.

    Returns:
        The last state, as a dict. `step` and `rows` count the steps and the rows seen. They took
        `seconds` by the clock and `cpu_seconds` of the CPU. `best` is the best mean log-likelihood
        of a validation, in nats; None if none succeeded. `best_step` is its step. `ended` says why
        the run ended: `steps`, `patience`, `time` or `signal`; it is empty if there was nothing
        left to do.

        `gaussian` is a value to compare with, on the same validation rows and in the model's
        metric. It is that of a Gaussian, or of a linear regression if there are contexts, which is
        fitted to the training rows. It is None for angles, images and few rows.

        Of an ensemble this is the state of the last training. `members` lists the best values of
        the trainings that have ended. `best` is the value of the ensemble once it is complete.

    Raises:
        ConfigError, DataError, ModelError: for mistakes in recipe, data or folders, or if another
            run trains in the folder.
        NotEnoughMemoryError: if a step needs more memory than there is.
    """
    if max_minutes is not None and not (is_real(max_minutes) and max_minutes >= 0):
        raise ModelError(f"max_minutes={max_minutes!r}: a number of at least 0 is needed")
    path = recipe_path(recipe_file)
    data = os.fspath(data) if isinstance(data, os.PathLike) else data
    recipe = read_recipe(path)
    if seed is not None:
        seed = convert(seed, int, "seed")
        recipe = recipe.with_seed(seed)
    if dry_run:
        recipe, resume = _shortened(recipe), False
    folder = Path(out) if out is not None else Path("runs") / path.resolve().parent.name
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file: --out takes a folder")
    processes = together(device)
    with (
        _temporary_folder() if dry_run else nullcontext(folder) as folder,
        processes.united(),
        only_run(folder) if processes.first else nullcontext(),
        enough_memory(_NEEDS_LESS),
    ):
        kept = path.read_bytes() if seed is None else with_seed(path.read_bytes(), seed)
        if resume:
            kept = kept_recipe(ModelFolder(folder), recipe, kept)
        whole = _Run(recipe, folder, path if seed is None else None, kept)
        runs = _members(whole) if recipe.ensemble > 1 else [whole]
        if recipe.ensemble > 1 and resume:
            check_resumed_ensemble(ModelFolder(folder), whole.own, recipe)
        elif recipe.ensemble > 1:
            check_new(ModelFolder(folder), whole.own)
        known = [_goes_on(run, init_from, asked=resume) for run in runs]
        start = None if init_from is None else ModelFolder.open(locate(init_from))
        if recipe.ensemble > 1 and resume:
            check_start([ModelFolder(run.folder) for run in runs], start)
        known = processes.gather(known)[0]  # all have looked before anybody writes
        splits = open_splits(recipe, data, accept_outliers=accept_outliers)
        deadline = None if max_minutes is None else time.perf_counter() + 60 * max_minutes
        states: list[dict[str, Any]] = []
        for run, goes_on in zip(runs, known, strict=True):
            left = None if deadline is None else (deadline - time.perf_counter()) / 60
            state = train_on(
                run.recipe,
                splits,
                run.folder,
                kept=run.kept,
                resume=goes_on,
                start=start,
                max_minutes=left,
                processes=processes,
                progress=progress,
            )
            if recipe.ensemble == 1:
                return _compared(state, recipe, splits)
            if state["ended"] in ("time", "signal") or state["best"] is None:
                members = [other["best"] for other in states]
                return {**state, "members": members, "gaussian": None}
            states.append(state)
        return _compared(_joined(whole, runs, states, splits[1], processes), recipe, splits)


@dataclass(frozen=True)
class _Run:
    """A training in a folder.

    Arguments:
        recipe: what is trained.
        folder: where.
        own: its recipe's file, which may lie there; None if that is not to be kept as it is.
        kept: the text of the recipe, which is written into the folder.
        member: whether it is one of an ensemble.
    """

    recipe: Recipe
    folder: Path
    own: Path | None
    kept: bytes
    member: bool = False


def _members(whole: _Run) -> list[_Run]:
    """The trainings of an ensemble, with seeds that follow each other."""
    first, found = whole.recipe.training.seed, []
    for seed in range(first, first + whole.recipe.ensemble):
        recipe = replace(whole.recipe.with_seed(seed), ensemble=1)
        place = whole.folder / f"seed-{seed}"
        found.append(_Run(recipe, place, None, of_member(whole.kept, seed), member=True))
    return found


def _goes_on(run: _Run, init_from: str | None, *, asked: bool) -> bool:
    """Whether a training goes on from a checkpoint; those of an ensemble may not have begun."""
    folder = ModelFolder(run.folder)
    if run.member and folder.has(CHECKPOINT):
        init_from = None  # it is for those that have not begun
    if asked and (folder.has(LOG) or not run.member):
        return check_resumed(folder, run.own, run.recipe, init_from)
    check_new(folder, run.own)
    return False


def _joined(
    whole: _Run,
    runs: Sequence[_Run],
    states: Sequence[dict[str, Any]],
    validation: Source,
    processes: Processes,
) -> dict[str, Any]:
    """Save the mixture of the models of some trainings; the state of all."""
    best = join(
        [run.folder for run in runs],
        whole.folder,
        validation,
        recipe=whole.kept,
        seed=whole.recipe.training.seed,
        limit=whole.recipe.runs[-1].validation_limit,
        processes=processes,
    )
    sums = {key: sum(one[key] for one in states) for key in ("skipped", "seconds", "cpu_seconds")}
    return {**states[-1], **sums, "best": best, "members": [one["best"] for one in states]}


def _compared(
    state: dict[str, Any], recipe: Recipe, splits: tuple[Source, Source]
) -> dict[str, Any]:
    """The state with the value of a Gaussian beside that of the model, if that has one."""
    value = None
    if state["best"] is not None:
        last = recipe.runs[-1]
        value = gaussian_value(recipe.config, splits, last.seed, last.validation_limit)
    return {**state, "gaussian": value}


def train_on(
    recipe: Recipe,
    splits: tuple[Source, Source],
    folder: Path,
    *,
    kept: bytes,
    resume: bool = False,
    start: ModelFolder | None = None,
    max_minutes: float | None = None,
    processes: Processes,
    progress: bool,
    improved: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Train the model of a recipe on rows that are open, in a folder that no other run is in.

    Arguments:
        recipe: what to train.
        splits: training and validation rows.
        folder: of the run.
        kept: the text of the recipe, which is written into the folder.
        resume: continue from the checkpoint in the folder.
        start: the model whose weights the run starts from; None takes random ones.
        max_minutes: write a checkpoint and stop after this time.
        processes: those that train together.
        progress: show a progress bar on stderr.
        improved: called when better weights are in the folder, with their validation value in nats.

    Returns:
        The last state, see `train`.
    """
    train_rows, validation_rows = splits
    own = [processes.device] if processes.device.type == "cuda" else []
    # Gradients are needed whatever the caller's mode, and the caller's random numbers stay.
    with grad_mode(enabled=True), torch.random.fork_rng(devices=own):
        torch.manual_seed(recipe.training.seed)
        config = _with_columns(recipe.config, train_rows)
        model = model_class(recipe.model)(config).to(processes.device)
        for source in splits:
            _check_bounds(model, source)
        first = 0
        if resume:
            first = checkpoint_state(folder / CHECKPOINT, check_state)["stage"]
        if first >= len(recipe.runs):
            raise CheckpointError(
                f"{folder.name} is in stage {first}, which the recipe does not have"
            )
        best: float | None = None
        deadline = None if max_minutes is None else time.perf_counter() + 60 * max_minutes
        for stage, settings in enumerate(recipe.runs[first:], start=first):
            trainer = Trainer(
                model,
                settings,
                train_rows,
                validation_rows,
                folder,
                stage=stage,
                recipe=fingerprint(recipe),
                processes=processes,
                progress=progress,
                improved=improved,
            )
            if resume and stage == first:
                trainer.resume()
            elif stage:
                trainer.go_on(best)
            else:
                trainer.prepare(start)
            if processes.first:
                write_whole(folder / RECIPE, kept)  # a resumed one may have more stages now
            if not trainer.finished:
                trainer.run(deadline)
            best = trainer.state["best"]
            if trainer.stopped or best is None:
                break
        return {**trainer.state, "ended": trainer.ended}


def _check_bounds(model: FlowModel, source: Source) -> None:
    """Refuse a table with a row outside of bounds; a step would meet it in the midst of a run."""
    if isinstance(source, TableSource) and model.config.bounds:
        rows = source.rows(range(len(source))).to(next(model.parameters()).dtype)
        try:
            model.preprocessing.check(rows, raw=True)
        except ModelError as error:
            raise ModelError(f"{source.name}: {error}") from None


def _shortened(recipe: Recipe) -> Recipe:
    """The recipe with two steps in each stage and eight rows in a validation."""
    training, *stages = (
        replace(settings, steps=min(settings.steps, 2), validation_limit=8)
        for settings in (recipe.training, *recipe.stages)
    )
    return replace(recipe, training=training, stages=tuple(stages), ensemble=1)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def open_splits(
    recipe: Recipe, data: Any, *, accept_outliers: bool = False
) -> tuple[Source, Source]:
    """The training and validation rows of a recipe.

    Raises:
        DataError: if neither the recipe nor the user names a data set, if a table in memory is to
            have splits, or if a value is absurd for its column and not to be accepted.
    """
    settings = recipe.data
    dataset = settings.dataset if data is None else data
    if dataset is None:
        raise DataError("this recipe names no data set: give a folder or a Hub id with --data")
    if settings.validation is None and settings.validation_rows is None:
        raise DataError(
            "the recipe names no validation rows: set data.validation to a split, or "
            "data.validation_rows to a number of training rows to hold out"
        )
    named = isinstance(dataset, str)
    if not named and settings.validation_rows is None:
        raise DataError(
            "the data are in memory and have no splits: set data.validation_rows in the recipe"
        )
    revision = settings.revision if data is None else None
    skip = settings.corrupt == "skip"
    toy = named and is_toy(dataset)
    if settings.train_rows is not None and not (toy or is_toy(settings.dataset)):
        raise DataError("data.train_rows is only for toys, leave it out")
    size = settings.train_rows if toy else None  # another --data has its own number
    options: dict[str, Any] = {"skip_corrupt": skip, "weights": settings.weights}
    rows = open_rows(recipe.config, dataset, settings.train, revision, size, **options)
    if not accept_outliers:
        refuse_outliers(rows)
    held_out = settings.validation_rows
    if held_out is not None:
        if not 0 < held_out < len(rows):
            raise DataError(f"validation_rows={held_out}: {rows.name} has only {len(rows)} rows")
        rows, cut = rows.mixed(), len(rows) - held_out
        return rows.part(range(cut)), rows.part(range(cut, len(rows)))
    validation = settings.validation
    config = _with_columns(recipe.config, rows)
    try:
        validation_rows = open_rows(config, dataset, validation, revision, **options)
    except UnknownSplitError as error:
        raise DataError(
            f"{error}; or set data.validation_rows in the recipe, to hold out rows of "
            f"{settings.train!r}"
        ) from None
    if not accept_outliers:
        refuse_outliers(validation_rows)
    return rows, validation_rows


def _with_columns(config: Config, rows: Source) -> Config:
    """The config with the names of a table's columns, if it has none and they do.

    Data with other columns are then refused, and columns are read in the right order.
    """
    if isinstance(config, ImageConfig) or not (isinstance(rows, TableSource) and rows.named):
        return config
    return replace(config, columns=rows.columns[: config.features])
