"""Training by maximum likelihood, from a recipe to a folder that `from_pretrained` loads."""

from __future__ import annotations

import copy
import math
import os
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from impflow_zoo.data import DataError, Source, fingerprint
from impflow_zoo.facts import TrainingFacts, read_log
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.config import ModelError, convert
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import LOG, TRAINING, ModelFolder
from impflow_zoo.models.store import load_weights
from impflow_zoo.models.writing import write_whole
from impflow_zoo.numerics.solver import NumericalWarning
from impflow_zoo.processes import Processes, together
from impflow_zoo.recipe import TrainingSettings, read_recipe
from impflow_zoo.registry import locate
from impflow_zoo.runlog import Meter, RunLog
from impflow_zoo.scoring import score
from impflow_zoo.training.batches import Batches
from impflow_zoo.training.checkpoint import (
    CheckpointError,
    checkpoint_state,
    read_checkpoint,
    write_checkpoint,
)
from impflow_zoo.training.interrupts import stop_requests
from impflow_zoo.training.optimisation import Optimisation
from impflow_zoo.training.run_folder import (
    CHECKPOINT,
    check_new,
    check_resumed,
    check_unsaved,
    keep_recipe,
)
from impflow_zoo.training.splits import open_splits, with_columns
from impflow_zoo.transforms.base import NUMERICAL_ERRORS

__all__ = ["Trainer", "train"]

_FIRST_CHECKPOINT = 60.0  # seconds
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
    saved = (folder / CHECKPOINT).exists()
    if resume and saved and init_from is not None:
        raise ModelError("--resume goes on from the run's own weights: leave --init-from out")
    if resume and saved:
        check_resumed(folder, recipe)
    elif resume:
        check_unsaved(folder, path, recipe, seed, starts=init_from is not None)
    else:
        check_new(folder, path, seed)
    if recipe.config.context_features:
        raise ModelError("recipes train unconditional densities: leave context_features out")
    least = recipe.config.least_size
    if least > _LARGEST:
        raise ModelError(
            f"the config asks for {least:.3g} numbers or more: take fewer blocks or smaller sizes"
        )
    processes = together(device)
    resume = resume and processes.gather(saved)[0]  # before anybody writes
    train_rows, validation_rows = open_splits(recipe, data)
    torch.manual_seed(recipe.training.seed)
    config = with_columns(recipe.config, train_rows)
    model = model_class(recipe.model)(config).to(processes.device)
    start = None if init_from is None else ModelFolder.open(locate(init_from))
    first = checkpoint_state(folder / CHECKPOINT).get("stage", 0) if resume else 0
    if resume and processes.first:
        keep_recipe(folder, path.read_bytes(), seed)  # which may have more stages now
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
                keep_recipe(folder, path.read_bytes(), seed)
        if not trainer.finished:
            trainer.run(deadline)
        if trainer.stopped or not trainer.finished or trainer.state["best"] is None:
            break
    return dict(trainer.state)


class Trainer:
    """One stage of a run: a model, its training and validation rows, and a folder.

    Arguments:
        model: what to train.
        settings: how.
        rows: training rows.
        validation: rows that decide which weights are kept.
        folder: where model, log and checkpoint go.
        stage: number of the stage, from 0.
        processes: those that train together.
        progress: show a bar on stderr.
    """

    def __init__(
        self,
        model: FlowModel,
        settings: TrainingSettings,
        rows: Source,
        validation: Source,
        folder: Path,
        *,
        stage: int = 0,
        processes: Processes | None = None,
        progress: bool,
    ) -> None:
        self.processes = processes or Processes()
        self.model, self.settings, self.validation = model, settings, validation
        self.batches = Batches(rows, settings.batch_size, flip=settings.flip, seed=settings.seed)
        if self.batches.size < self.processes.count:
            raise ModelError(
                f"batches of {self.batches.size} rows: too few for "
                f"{self.processes.count} processes, each needs one"
            )
        self.optimisation = Optimisation(model, settings, self.processes)
        self.folder, self.log = folder, RunLog(folder)
        self.progress = progress and self.processes.first
        self.state: dict[str, Any] = {
            "stage": stage,
            "step": 0,
            "rows": 0,
            "skipped": 0,
            "left_out": 0,
            "best": None,
            "best_step": 0,
            "waited": 0,
            "seconds": 0.0,
            "seed": settings.seed,
            "data_rows": len(rows),
            "data": fingerprint(rows),
        }
        self.meter = Meter()
        self.stopped = False

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state["step"] >= self.settings.steps or self._out_of_patience()

    @property
    def averaged(self) -> FlowModel:
        """The model with averaged weights, the one that is validated and kept."""
        return cast(FlowModel, self.optimisation.averaged.module)

    def prepare(self, start: ModelFolder | None = None) -> None:
        """Learn preprocessing and scales from the data, or start from the weights of a model."""
        if start is None:
            if self.model.preprocessing.learns:
                rows = self.batches.rows
                some = rows.rows(range(min(len(rows), 100_000)))  # enough for a mean and a scale
                self.model.fit_preprocessing(some.to(self.processes.device))
            self.optimisation.start(self._first_batch())
            self._begin()
        else:
            self._take_weights(start)
            self._begin(init_from=_public_name(start))

    def go_on(self) -> None:
        """Start a stage from the weights that the one before has kept."""
        before = TrainingFacts.read(self.folder)
        self._take_weights(ModelFolder(self.folder))
        self.processes.wait()  # all have read them before the first writes others
        self._begin(before=asdict(before))

    def _take_weights(self, start: ModelFolder) -> None:
        load_weights(self.model, start.weights(start.config()), start.name)
        self.model.float()

    def _begin(self, **known: Any) -> None:
        """Start the average, and the log with what is known of the run."""
        self.optimisation.start_average()
        if self.processes.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.log.start(self.state["stage"])
        own = {key: self.state[key] for key in ("seed", "data")}
        self._log(hardware=self.processes.description, **own, **known)

    def resume(self) -> None:
        """Go on from the checkpoint, dropping what the log says beyond it."""
        state = read_checkpoint(
            self.folder / CHECKPOINT, self.optimisation.modules, self.optimisation.optimizer
        )
        seed = state.get("seed", self.settings.seed)
        if seed != self.settings.seed:
            raise CheckpointError(
                f"{self.folder} was started with seed {seed - self.state['stage']}, not "
                f"{self.settings.seed - self.state['stage']}: go on with --seed "
                f"{seed - self.state['stage']}"
            )
        found, trained = self.state["data_rows"], state.get("data_rows", self.state["data_rows"])
        if found != trained:
            raise CheckpointError(
                f"{self.folder} was trained on {trained:,} rows, there are {found:,} now: "
                "give the same data with --data"
            )
        if state.get("data", self.state["data"]) != self.state["data"]:
            raise CheckpointError(
                f"{self.folder} was trained on other rows than these: give the same data, with the "
                "same columns, with --data"
            )
        self.meter.figures = state.pop("unlogged", [])
        self.state |= state
        self.processes.wait()  # all have read it before the first writes another
        if self.processes.first:
            self.log.forget_beyond(self.state["step"])

    def checkpoint(self) -> None:
        """Write everything a resumed run needs."""
        if self.processes.first:
            write_checkpoint(
                self.folder / CHECKPOINT,
                self.optimisation.modules,
                self.optimisation.optimizer,
                {**self.state, "unlogged": self.meter.figures},
            )

    def run(self, deadline: float | None = None) -> dict[str, Any]:
        """Train until the steps are done, patience or time is up, or a signal asks to stop.

        Arguments:
            deadline: when to stop, by `time.perf_counter`.
        """
        start = time.perf_counter()
        before = self.state["seconds"]
        between = 60 * self.settings.checkpoint_minutes
        due = start + min(between, _FIRST_CHECKPOINT)
        if self.state["step"] == 0:
            self.checkpoint()  # what the data have taught so far
        with (
            stop_requests() as stop,
            tqdm(
                total=self.settings.steps,
                initial=self.state["step"],
                unit="step",
                disable=not self.progress,
            ) as bar,
        ):
            while not self.finished:
                self.meter.figures.append(self._step())
                self.state["step"] += 1
                now = time.perf_counter()
                self.state["seconds"] = before + now - start
                step, last = self.state["step"], self.state["step"] == self.settings.steps
                if step % self.settings.log_every == 0 or last:
                    figures = self.meter.summary()
                    counts = {key: self.state[key] for key in ("skipped", "left_out")}
                    self._log(**figures, **counts)
                    bar.set_postfix(log_density=figures["log_density"], refresh=False)
                bar.update()
                if step % self.settings.validate_every == 0 or last:
                    self._validate()
                late = deadline is not None and now >= deadline
                if self.processes.any(stop.asked or late):
                    self.stopped = True
                    break
                if now >= due:
                    self.checkpoint()
                    due = now + between
            self.checkpoint()
            self._write_facts()
        self.processes.wait()  # nobody leaves before the files are whole
        return dict(self.state)

    def _step(self) -> dict[str, float]:
        """One step of the optimizer, with its figures for the log."""
        start, step = time.perf_counter(), self.state["step"]
        x = self._batch(step, self.processes.share(self.batches.size))
        size = sum(self.processes.gather(len(x)))
        figures = self.optimisation.step(step, x, size)
        self.state["rows"] += size
        self.state["left_out"] += self.batches.size - size
        self.state["skipped"] += not math.isfinite(figures["gradient_norm"])
        return {**figures, "rows": size, "seconds": time.perf_counter() - start}

    def _batch(self, step: int, part: range | None) -> Tensor:
        """Rows of a step as the model takes them."""
        x = self.model.dequantise(*self.batches.of(step, part))
        return x.to(next(self.model.parameters()))

    def _first_batch(self) -> Tensor:
        """The first batch that has rows: those that cannot be read may be left out."""
        for step in range(len(self.batches)):
            if len(x := self._batch(step, None)):
                return x
        raise DataError(f"{self.batches.rows.name}: none of its rows can be read")

    def _validate(self) -> None:
        """Score the averaged weights and keep them if they are the best so far.

        Weights that fail to score a row (its root is not found, for example) are not kept, and
        training goes on.
        """
        model = copy.deepcopy(self.averaged).eval()
        log_prob, value = math.nan, math.nan
        try:
            scored = score(
                model,
                self.validation,
                seed=self.settings.seed,
                limit=self.settings.validation_limit,
                processes=self.processes,
            )
        except NUMERICAL_ERRORS as error:
            if self.processes.first:
                warnings.warn(f"validation failed: {error}", NumericalWarning, stacklevel=2)
        else:
            log_prob = float(scored.log_prob.mean())
            value = float(model.preprocessing.metric(scored.log_prob).mean())
        self._log(validation=value if math.isfinite(value) else None)
        best = self.state["best"]
        if math.isfinite(log_prob) and (best is None or log_prob > best):
            self.state.update(best=log_prob, best_step=self.state["step"], waited=0)
            if self.processes.first:
                model.save_pretrained(self.folder)
        else:
            self.state["waited"] += 1
        self._write_facts()

    def _write_facts(self) -> None:
        """What the run says of its cost and progress so far."""
        if self.processes.first:
            text = read_log(self.folder / LOG).text()
            write_whole(self.folder / TRAINING, text.encode())

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.state["waited"] >= patience

    def _log(self, **figures: Any) -> None:
        if self.processes.first:
            self.log.write(self.state, **figures)


def _public_name(start: ModelFolder) -> str:
    """A Hub id, or the last part of a folder's path: where it lies is nobody's business."""
    return start.name if not Path(start.name).is_dir() else Path(start.name).resolve().name
