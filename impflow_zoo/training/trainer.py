"""One stage of a training run: its steps, validations, log and checkpoints."""

from __future__ import annotations

import copy
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from impflow_zoo.data import DataError, Source, TableSource
from impflow_zoo.data.source import checksum, fingerprint
from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.evaluation.scoring import StoppedError, score
from impflow_zoo.evaluation.standard_errors import weighted_mean
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CHECKPOINT, LOG, TRAINING
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.reading import readable
from impflow_zoo.models.store import check_fit, load_weights
from impflow_zoo.models.writing import write_whole
from impflow_zoo.numerics.seeds import Use, mix
from impflow_zoo.numerics.solver import NumericalWarning
from impflow_zoo.training.batches import Batches
from impflow_zoo.training.checkpoint import (
    CheckpointError,
    read_checkpoint,
    write_checkpoint,
)
from impflow_zoo.training.facts import TrainingFacts, cut_log, means, start_log, write_line
from impflow_zoo.training.optimisation import Optimisation
from impflow_zoo.training.recipe import TrainingSettings
from impflow_zoo.training.state import check_state
from impflow_zoo.transforms.base import NUMERICAL_ERRORS

__all__ = ["Trainer"]

_FIRST_CHECKPOINT = 60.0  # seconds
_FIRST_ROWS = 64  # rows that layers start from, in batches however small
_SCALE_ROWS = 100_000  # enough for a mean and a scale


class Trainer:
    """One stage of a run: a model, its training and validation rows, and a folder.

    Arguments:
        model: the model to train.
        settings: settings of the training.
        rows: training rows.
        validation: validation rows; the weights with the best value on them are kept.
        folder: folder of model, log and checkpoint.
        stage: number of the stage, from 0.
        recipe: fingerprint of the recipe, for the facts of the run.
        processes: the processes that train together.
        progress: show a progress bar on stderr.
        improved: called with the value when weights are kept, in nats.
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
        recipe: str = "",
        processes: Processes | None = None,
        progress: bool,
        improved: Callable[[float], None] | None = None,
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
        self.folder, self.recipe = folder, recipe
        self.progress = progress and self.processes.first
        self.improved = improved
        self.state: dict[str, Any] = {
            "stage": stage,
            "step": 0,
            "rows": 0,
            "skipped": 0,
            "left_out": 0,
            "best": None,
            "best_step": 0,
            "waited": 0,
            "validated": 0,
            "seconds": 0.0,
            "cpu_seconds": 0.0,
            "seed": settings.seed,
            "data_rows": len(rows),
            "data": fingerprint(rows),
            "checksum": checksum(rows),
            "validation": checksum(validation),
            "hardware": [self.processes.description],
            "curve": [],  # rows seen, seconds and value of each validation
            "unconverged": 0.0,  # sum of the fractions that were logged
            "logged": 0,
            "init_from": "",  # the model whose weights the run started from
            "before": None,  # facts of the stages before
        }
        self.unlogged: list[dict[str, float]] = []  # figures of steps since the last line
        self.shown: dict[str, float] = {}  # of training and validation, the last values
        self.signals: list[int] = []  # that ask to stop
        self.stopped = False
        self.ended = ""  # why: steps, patience, time or signal

    @property
    def finished(self) -> bool:
        """Whether all steps are done and validated, or patience is at an end."""
        patience = self.settings.patience
        waited = patience is not None and self.state["waited"] >= patience
        return waited or (self.state["step"] >= self.settings.steps and not self.owes_validation)

    @property
    def owes_validation(self) -> bool:
        """Whether the weights of this step are to be validated, and have not been yet."""
        step = self.state["step"]
        due = step % self.settings.validate_every == 0 or step == self.settings.steps
        return due and self.state["validated"] < step

    @property
    def averaged(self) -> FlowModel:
        """The model with averaged weights, the one that is validated and kept."""
        return cast(FlowModel, self.optimisation.averaged.module)

    def prepare(self, start: ModelFolder | None = None) -> None:
        """Learn preprocessing and scales from the data, or start from the weights of a model."""
        if start is None:
            if self.model.preprocessing.learns:
                rows = self.batches.rows
                some = self._some_rows(_SCALE_ROWS)
                x, context = self.model.parted(rows.rows(some).to(self.processes.device))
                weights = rows.weights if isinstance(rows, TableSource) else None
                weights = None if weights is None else weights[some]
                self.model.fit_preprocessing(x, context, weights=weights)
            self.optimisation.start(self._first_batch())
            self._begin()
        else:
            self._take_weights(start)
            self.state["init_from"] = start.public_name
            self._begin()
        self._write_facts()

    def go_on(self, best: float | None) -> None:
        """Start a stage from the weights that the one before has kept, and their value."""
        before = TrainingFacts.read(self.folder)
        self._take_weights(ModelFolder(self.folder))
        self.processes.wait()  # all have read them before the first writes others
        # What this stage keeps has to be better.
        self.state.update(best=best, before=asdict(before), init_from=before.init_from)
        self._begin()

    def _take_weights(self, start: ModelFolder) -> None:
        stated, weights = start.config_and_weights()
        for name in ("columns", "context_columns", "class_names", "bounds", "periods"):
            own, known = (getattr(one, name, ()) for one in (self.model.config, stated.config))
            unnamed = name not in ("bounds", "periods") and not (own and known)
            if own != known and not unnamed:
                raise ModelError(
                    f"{start.name} has {name} {readable(known)}, not {readable(own)}: its weights "
                    "mean something else; state the same, in the same order"
                )
        check_fit(weights, self.model.state_dict(), start.name)
        load_weights(self.model, weights)
        self.model.float()

    def _begin(self) -> None:
        """Start the average, and the log with what is known of the run."""
        self.averaged.load_state_dict(self.model.state_dict())
        if self.processes.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            start_log(self.folder, self.state["stage"])
        known = {key: self.state[key] for key in ("seed", "data", "init_from")}
        self._log(hardware=self.processes.description, **known)

    def resume(self) -> None:
        """Go on from the checkpoint, dropping what the log says beyond it."""
        state = read_checkpoint(
            self.folder / CHECKPOINT,
            self.optimisation.modules,
            self.optimisation.optimizers,
            check_state,
        )
        for what, keys in (("trained", ("data", "checksum")), ("validated", ("validation",))):
            if any(state[key] != self.state[key] for key in keys):
                raise CheckpointError(
                    f"{self.folder} was {what} on other rows: give the same data, with the "
                    "same columns, with --data"
                )
        self.unlogged, log_size = state.pop("unlogged"), state.pop("log_size")
        self.state |= state
        self.processes.wait()  # all have read it before the first writes another
        if self.processes.first:
            cut_log(self.folder, log_size)
        if not self.finished and self.processes.description not in self.state["hardware"]:
            self.state["hardware"].append(self.processes.description)
            self._log(hardware=self.processes.description)

    def checkpoint(self) -> None:
        """Write everything a resumed run needs."""
        if self.processes.first:
            write_checkpoint(
                self.folder / CHECKPOINT,
                self.optimisation.modules,
                self.optimisation.optimizers,
                {
                    **self.state,
                    "unlogged": self.unlogged,
                    "log_size": (self.folder / LOG).stat().st_size,
                },
            )

    def run(self, deadline: float | None = None) -> dict[str, Any]:
        """Train until the steps are done, patience or time is up, or a signal asks to stop.

        Arguments:
            deadline: when to stop, by `time.perf_counter`.
        """
        start, cpu_start = time.perf_counter(), time.process_time()
        before, cpu_before = self.state["seconds"], self.state["cpu_seconds"]
        between = 60 * self.settings.checkpoint_minutes
        due = start + min(between, _FIRST_CHECKPOINT)
        if self.state["step"] == 0:
            self.checkpoint()  # what the data have taught so far
        with (
            _stop_requests() as self.signals,
            tqdm(
                total=self.settings.steps,
                initial=self.state["step"],
                unit="step",
                disable=None if self.progress else True,  # None: where there is no terminal
            ) as bar,
        ):
            while not self.finished:
                if not self.owes_validation:  # else the run was stopped in it
                    self.unlogged.append(self.step())
                    self.state["step"] += 1
                now = time.perf_counter()
                self.state["seconds"] = before + now - start
                self.state["cpu_seconds"] = cpu_before + time.process_time() - cpu_start
                step, last = self.state["step"], self.state["step"] == self.settings.steps
                if self.unlogged and (step % self.settings.log_every == 0 or last):
                    figures, self.unlogged = means(self.unlogged), []
                    counts = {key: self.state[key] for key in ("skipped", "left_out")}
                    self._log(**figures, **counts)
                    if (unconverged := figures.get("unconverged")) is not None:
                        self.state["unconverged"] += unconverged
                        self.state["logged"] += 1
                    if (log_density := figures["log_density"]) is not None:
                        self.shown["train"] = self._metric(torch.tensor(log_density))
                    bar.set_postfix(self._figures(), refresh=False)
                bar.update(step - bar.n)
                if self.owes_validation:
                    with suppress(StoppedError):
                        self.validate()
                        self.state["validated"] = step
                        bar.set_postfix(self._figures(), refresh=False)
                        self._say_figures(plain=bool(bar.disable))
                late = deadline is not None and now >= deadline
                if self.processes.any(bool(self.signals) or late):
                    self.stopped, self.ended = True, "time" if late else "signal"
                    break
                if now >= due:
                    self.checkpoint()
                    due = now + between
            if not self.stopped:
                self.ended = "steps" if self.state["step"] == self.settings.steps else "patience"
            self.state["seconds"] = before + time.perf_counter() - start
            self.state["cpu_seconds"] = cpu_before + time.process_time() - cpu_start
            self.checkpoint()
            self._write_facts()
        self.processes.wait()  # nobody leaves before the files are whole
        return dict(self.state)

    def step(self) -> dict[str, float]:
        """One step of the optimizer, with its figures for the log."""
        start, step = time.perf_counter(), self.state["step"]
        own = self.processes.share(self.batches.size)
        x = self.batch(step, own)
        size = sum(self.processes.gather(len(x)))
        figures = self.optimisation.step(step, x, size, self.batches.weights(step, own))
        self.state["rows"] += size
        self.state["left_out"] += self.batches.size - size
        self.state["skipped"] += not math.isfinite(figures["gradient_norm"])
        return {**figures, "rows": size, "seconds": time.perf_counter() - start}

    def batch(self, step: int, part: range | None) -> Tensor:
        """Rows of a step as the model takes them, dequantised.

        Arguments:
            step: number of the step, from 0.
            part: positions within the batch, without gaps; None takes all of them.

        Returns:
            The rows, in the type and on the device of the model's parameters. Of a table their
            shape is `[n, D]`, columns and context columns. Of images it is `[n, C, H, W]`, where
            labels are one more channel. `n` is smaller than the part if rows are left out.

        Raises:
            DataError: for a row that cannot be read and is not to be left out.
        """
        x = self.model.dequantise(*self.batches.of(step, part))
        return x.to(next(self.model.parameters()))

    def _some_rows(self, n: int) -> Tensor:
        """The numbers of all rows, or of some at random if there are more than this many.

        Those at the beginning may be alike: files are often sorted.
        """
        generator = torch.Generator().manual_seed(mix(self.settings.seed, Use.STANDARDISED))
        return torch.randperm(len(self.batches.rows), generator=generator)[:n].sort().values

    def _first_batch(self) -> Tensor:
        """What layers that start from data see: the first batches, until they hold enough rows."""
        x, step = self.batch(0, None), 1
        while len(x) < _FIRST_ROWS and step < len(self.batches):
            x, step = torch.cat((x, self.batch(step, None))), step + 1
        if not len(x):  # those that cannot be read may be left out
            raise DataError(f"{self.batches.rows.name}: none of its rows can be read")
        return x

    def validate(self) -> None:
        """Score the averaged weights and keep them if they are the best so far.

        Weights that fail to score a row (its root is not found, for example) are not kept, and
        training goes on.

        Raises:
            StoppedError: if a signal asks to stop meanwhile; a resumed run validates them again.
        """
        model = copy.deepcopy(self.averaged).eval()
        found = torch.tensor(math.nan)
        try:
            found = score(
                model,
                self.validation,
                seed=self.settings.seed,
                limit=self.settings.validation_limit,
                processes=self.processes,
                asked_to_stop=lambda: bool(self.signals),
            ).log_prob
        except NUMERICAL_ERRORS as error:
            if self.processes.first:
                warnings.warn(f"validation failed: {error}", NumericalWarning, stacklevel=2)
        rows = self.validation
        weights = rows.weights if isinstance(rows, TableSource) and found.dim() else None
        mean = weighted_mean(found, None if weights is None else weights[: len(found)])
        log_prob = float(mean)
        value = self.shown["validation"] = self._metric(mean)
        finite = math.isfinite(value)
        self._log(validation=value if finite else None)
        if finite:
            point = (self.state["rows"], round(self.state["seconds"], 3), round(value, 5))
            self.state["curve"].append(point)
        best = self.state["best"]
        better = math.isfinite(log_prob) and (best is None or log_prob > best)
        better = self.processes.gather(better)[0] and self._keep(model)
        if better:
            self.state.update(best=log_prob, best_step=self.state["step"], waited=0)
        else:
            self.state["waited"] += 1
        self._write_facts()
        if better and self.improved is not None:
            self.improved(log_prob)

    def _metric(self, log_prob: Tensor) -> float:
        """The mean in the metric of the model."""
        return float(self.model.preprocessing.metric(log_prob).mean())

    def _figures(self) -> dict[str, str]:
        """The last values of training and validation, in the metric of the model."""
        names = (name for name in ("train", "validation") if name in self.shown)
        return {name: f"{self.shown[name]:.4f}" for name in names}

    def _say_figures(self, *, plain: bool) -> None:
        """One line for a validation, where there is no terminal for a bar."""
        if plain and self.progress:
            unit = METRICS[self.model.config.metric].unit
            values = ", ".join(f"{name} {value}" for name, value in self._figures().items())
            step = f"step {self.state['step']:,} of {self.settings.steps:,}"
            tqdm.write(f"{step}: {values} {unit}", file=sys.stderr)

    def _keep(self, model: FlowModel) -> bool:
        """Save a model; False if it cannot decode its golden batch."""
        kept = True
        if self.processes.first:
            try:
                model.save_pretrained(self.folder)
            except NUMERICAL_ERRORS as error:
                kept = False
                warnings.warn(
                    f"the weights of step {self.state['step']} are not saved, training goes on: "
                    f"{error}",
                    NumericalWarning,
                    stacklevel=3,
                )
        return self.processes.gather(kept)[0]

    def _write_facts(self) -> None:
        """What the run says of its cost and progress so far."""
        if self.processes.first:
            size = sum(p.numel() for p in self.model.parameters())
            facts = replace(TrainingFacts.of(self.state, size), recipe=self.recipe)
            write_whole(self.folder / TRAINING, facts.text().encode())

    def _log(self, **figures: Any) -> None:
        if self.processes.first:
            write_line(self.folder, self.state, **figures)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Within the block signals are added to a list; only the main thread gets any.

    A handler runs between two steps of the main thread, which may hold the lock of an
    `Event` then: a handler that asks for it would wait for ever. A list has no lock.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda got, _: asked.append(got)) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
