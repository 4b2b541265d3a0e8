"""Training by maximum likelihood, from a recipe to a folder that `from_pretrained` loads."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from impflow_zoo.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from impflow_zoo.data import DataError, Source, Subset
from impflow_zoo.evaluation import open_rows, score
from impflow_zoo.models.config import ModelError
from impflow_zoo.models.flow import MODELS, FlowModel
from impflow_zoo.models.store import (
    RECIPE,
    WEIGHTS,
    load_weights,
    open_files,
    read_config,
    read_weights,
    write_whole,
)
from impflow_zoo.numerics import monitor
from impflow_zoo.numerics.logdet import NoContractionError
from impflow_zoo.numerics.probes import mix
from impflow_zoo.numerics.solve import NumericalWarning, SolverError
from impflow_zoo.recipe import Recipe, TrainingSettings, read_recipe
from impflow_zoo.registry import locate
from impflow_zoo.transforms.base import NotFiniteError

__all__ = ["Trainer", "train"]

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
_BATCHES, _NOISE = 2, 3  # tell the seeds of batches and of training noise apart


def train(
    recipe_file: str | os.PathLike[str],
    *,
    data: str | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    init_from: str | None = None,
    max_minutes: float | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train what a recipe describes.

    Arguments:
        recipe_file: path of a recipe.
        data: Hub id, local folder or `toy:NAME` in place of the recipe's data set.
        out: folder for model, log and checkpoint; None is `runs/NAME`, with the name of the
            recipe's folder.
        resume: go on from the checkpoint in `out`, bit by bit as if never interrupted.
        init_from: start from the weights of a model (a name of the zoo, a Hub id or a folder)
            instead of random ones.
        max_minutes: stop then, with a checkpoint.
        progress: show a bar on stderr.

    Returns:
        The last state: step, rows seen, best validation value, seconds.

    Raises:
        ConfigError, DataError, ModelError: for mistakes in recipe, data or folders.
    """
    path = Path(recipe_file)
    recipe = read_recipe(path)
    folder = Path(out) if out is not None else Path("runs") / path.resolve().parent.name
    if resume and init_from is not None:
        raise ModelError("--resume goes on from the run's own weights: leave --init-from out")
    if not resume:
        _refuse_to_overwrite(folder)
    if recipe.config.context_features:
        raise ModelError("recipes train unconditional densities: leave context_features out")
    train_rows, validation_rows = open_splits(recipe, data)
    torch.manual_seed(recipe.training.seed)
    model = MODELS[recipe.model](recipe.config)
    trainer = Trainer(
        model, recipe.training, train_rows, validation_rows, folder, progress=progress
    )
    if resume:
        trainer.resume()
    else:
        trainer.prepare(init_from)
        write_whole(folder / RECIPE, path.read_bytes())
    return trainer.run(max_minutes)


def _refuse_to_overwrite(folder: Path) -> None:
    if (folder / CHECKPOINT).exists():
        raise CheckpointError(f"{folder} holds a run already: --resume it, or choose another --out")
    if (folder / WEIGHTS).exists():
        raise ModelError(f"{folder} holds the weights of a model: choose another --out")


def open_splits(recipe: Recipe, data: str | None) -> tuple[Source, Source]:
    """The training and validation rows of a recipe.

    Raises:
        DataError: if neither the recipe nor the user names a data set.
    """
    settings = recipe.data
    dataset = data or settings.dataset
    if dataset is None:
        raise DataError("this recipe names no data set: give a folder or a Hub id with --data")
    revision = settings.revision if data is None else None
    rows = open_rows(recipe.config, dataset, settings.train, revision, settings.train_rows)
    held_out = settings.validation_rows
    if held_out is not None:
        if not 0 < held_out < len(rows):
            raise DataError(f"validation_rows={held_out}: {rows.name} has {len(rows)} rows")
        cut = len(rows) - held_out
        return Subset(rows, range(cut)), Subset(rows, range(cut, len(rows)))
    return rows, open_rows(recipe.config, dataset, settings.validation, revision)


class Trainer:
    """One run: a model, its averaged copy, an optimizer and a folder.

    Arguments:
        model: what to train.
        settings: how.
        rows: training rows.
        validation: rows that decide which weights are kept.
        folder: where model, log and checkpoint go.
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
        progress: bool,
    ) -> None:
        self.model, self.settings = model, settings
        self.rows, self.validation = rows, validation
        self.folder, self.progress = folder, progress
        self.averaged = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(self.settings.ema_decay)
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.settings.weight_decay,
        )
        self.state: dict[str, Any] = {
            "step": 0,
            "rows": 0,
            "skipped": 0,
            "best": None,
            "best_step": 0,
            "waited": 0,
            "seconds": 0.0,
        }
        self.meter = _Meter()
        self.stop_asked = False

    @property
    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model, "averaged": self.averaged}

    def prepare(self, init_from: str | None = None) -> None:
        """Learn the preprocessing from the data, or start from the weights of a model."""
        if init_from is None:
            if self.model.preprocessing.learns:
                self.model.fit_preprocessing(self._all_rows())
        else:
            files = open_files(locate(init_from))
            load_weights(self.model, read_weights(files, read_config(files)), files.name)
            self.model.float()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.averaged.module.load_state_dict(self.model.state_dict())
        (self.folder / LOG).write_text("")
        threads = torch.get_num_threads()
        self._log(hardware=f"{threads} CPU thread{'s' if threads > 1 else ''}")

    def resume(self) -> None:
        """Go on from the checkpoint, dropping what the log says beyond it."""
        state = read_checkpoint(self.folder / CHECKPOINT, self._modules, self.optimizer)
        self.meter.figures = state.pop("unlogged", [])
        self.state = state
        path = self.folder / LOG
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= self.state["step"]]
        write_whole(path, "".join(line + "\n" for line in kept).encode())

    def checkpoint(self) -> None:
        """Write everything a resumed run needs."""
        state = {**self.state, "unlogged": self.meter.figures}
        write_checkpoint(self.folder / CHECKPOINT, self._modules, self.optimizer, state)

    def run(self, max_minutes: float | None = None) -> dict[str, Any]:
        """Train until the steps are done, patience or time is up, or a signal asks to stop."""
        start = last_saved = time.perf_counter()
        before = self.state["seconds"]
        deadline = math.inf if max_minutes is None else start + 60 * max_minutes
        with (
            self._signals(),
            tqdm(
                total=self.settings.steps,
                initial=self.state["step"],
                unit="step",
                disable=not self.progress,
            ) as bar,
        ):
            while self.state["step"] < self.settings.steps and not self._out_of_patience():
                self.meter.figures.append(self._step())
                self.state["step"] += 1
                now = time.perf_counter()
                self.state["seconds"] = before + now - start
                step, last = self.state["step"], self.state["step"] == self.settings.steps
                if step % self.settings.log_every == 0 or last:
                    figures = self.meter.summary()
                    self._log(**figures, skipped=self.state["skipped"])
                    bar.set_postfix(log_density=figures["log_density"], refresh=False)
                bar.update()
                if step % self.settings.validate_every == 0 or last:
                    self._validate()
                if self.stop_asked or now >= deadline:
                    break
                if now - last_saved >= 60 * self.settings.checkpoint_minutes:
                    self.checkpoint()
                    last_saved = now
            self.checkpoint()
        return dict(self.state)

    # --------------------------------------------------------------------------------- one step

    def _step(self) -> dict[str, float]:
        """One step of the optimizer; one that is not finite is counted, not applied."""
        settings, step = self.settings, self.state["step"]
        start = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        x = self._batch(step)
        self.state["rows"] += len(x)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with monitor.record() as events, warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)  # counted below
            try:
                log_density = self.model.log_prob(x).mean()
                (-log_density).backward()
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
                usable = bool(log_density.isfinite() & norm.isfinite())
                value, size = float(log_density.detach()), float(norm)
            except (NoContractionError, NotFiniteError, SolverError):
                usable, value, size = False, math.nan, math.nan
        if usable:
            self.optimizer.step()
            self.averaged.update_parameters(self.model)
        else:
            self.state["skipped"] += 1
        roots = [figures for kind, figures in events if kind == "root"]
        solved = sum(root["rows"] for root in roots)
        return {
            "log_density": value,
            "gradient_norm": size,
            "rows": len(x),
            "seconds": time.perf_counter() - start,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "solver_steps": sum(r["steps"] * r["rows"] for r in roots) / solved if solved else 0.0,
            "unconverged": sum(r["unconverged"] for r in roots) / solved if solved else 0.0,
        }

    def _batch(self, step: int) -> Tensor:
        """The rows of a step: a shuffled pass after the other, the same in every run."""
        n, size = len(self.rows), min(self.settings.batch_size, len(self.rows))
        per_pass = n // size
        epoch, position = divmod(step, per_pass)
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(mix(self.settings.seed, _BATCHES, epoch))
            self._epoch, self._order = epoch, torch.randperm(n, generator=generator)
        raw = self.rows.rows(self._order[position * size : (position + 1) * size].tolist())
        generator = torch.Generator().manual_seed(mix(self.settings.seed, _NOISE, step))
        if self.settings.flip:
            mirrored = torch.rand(len(raw), generator=generator) < 0.5
            raw[mirrored] = raw[mirrored].flip(-1)
        noise = torch.rand(raw.shape, generator=generator, dtype=torch.float64)
        reference = next(self.model.parameters())
        return self.model.dequantise(raw, noise).to(reference)

    def _all_rows(self) -> Tensor:
        n = min(len(self.rows), 100_000)  # enough for a mean and a scale
        return self.rows.rows(range(n))

    # ------------------------------------------------------------------------ validation and log

    def _validate(self) -> None:
        """Score the averaged weights and keep them if they are the best so far."""
        model = copy.deepcopy(cast(FlowModel, self.averaged.module)).eval()
        scored = score(
            model, self.validation, seed=self.settings.seed, limit=self.settings.validation_limit
        )
        log_prob = float(scored.log_prob.mean())
        self._log(validation=float(model.preprocessing.metric(scored.log_prob).mean()))
        best = self.state["best"]
        if math.isfinite(log_prob) and (best is None or log_prob > best):
            self.state.update(best=log_prob, best_step=self.state["step"], waited=0)
            model.save_pretrained(self.folder)
        else:
            self.state["waited"] += 1

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.state["waited"] >= patience

    def _log(self, **figures: Any) -> None:
        line = {
            "step": self.state["step"],
            "rows_seen": self.state["rows"],
            "seconds": round(self.state["seconds"], 3),
            **figures,
        }
        with open(self.folder / LOG, "a") as file:
            file.write(json.dumps(line) + "\n")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into a checkpoint and an orderly end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(signum: int, frame: FrameType | None) -> None:
            self.stop_asked = True

        previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Linear warm-up, then a half cosine down to the final rate."""
    rate = settings.learning_rate
    if step < settings.warmup_steps:
        return rate * (step + 1) / settings.warmup_steps
    if settings.final_learning_rate is None:
        return rate
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    final = settings.final_learning_rate
    return final + (rate - final) * 0.5 * (1 + math.cos(math.pi * done))


@dataclasses.dataclass
class _Meter:
    """Means over the steps since the last line of the log; skipped steps have no value to count."""

    figures: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def summary(self) -> dict[str, float | None]:
        columns = {key: [f[key] for f in self.figures] for key in self.figures[0]}
        rows, seconds = sum(columns.pop("rows")), sum(columns.pop("seconds"))
        self.figures = []
        means = {key: _mean(values) for key, values in columns.items()}
        return {**means, "rows_per_second": float(f"{rows / seconds:.6g}")}


def _mean(values: list[float]) -> float | None:
    """Mean of the finite values, None if there are none: JSON has no NaN."""
    finite = [value for value in values if math.isfinite(value)]
    return float(f"{sum(finite) / len(finite):.6g}") if finite else None


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the last line of a killed run may be cut
        return math.inf
