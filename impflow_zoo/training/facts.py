"""Facts of a training, in `training.json`: its cost, its course, and the scores of other seeds.

The log of a run, one JSON object per line, is for its readers: no code reads it back.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from impflow_zoo.models.fields import ConfigError, ModelError, convert, convert_fields
from impflow_zoo.models.filenames import LOG, TRAINING
from impflow_zoo.models.reading import read_json

__all__ = ["Part", "Repeat", "TrainingFacts", "cut_log", "means", "start_log", "write_line"]


@dataclass(frozen=True)
class Repeat:
    """A run of the same recipe with another seed.

    Arguments:
        seed: its seed.
        value, stderr: its score on the rows of the card.
        rows_seen, minutes: its cost.
    """

    seed: int
    value: float
    stderr: float
    rows_seen: int
    minutes: float


@dataclass(frozen=True)
class Part:
    """One stage of a run; the next one starts from its weights.

    Arguments:
        steps, rows_seen, minutes, hardware: its cost.
    """

    steps: int
    rows_seen: int
    minutes: float
    hardware: str


@dataclass(frozen=True)
class TrainingFacts:
    """Cost and progress of a run, over all its stages.

    Arguments:
        steps, rows_seen, minutes, hardware: the cost of all stages together.
        skipped_steps: steps that were not applied, because their loss was not finite.
        unconverged_fraction: fraction of roots that missed the training tolerance, mean over steps.
        curve: rows seen, seconds and value of each validation.
        seed: seed of the recipe.
        repeats: runs with other seeds.
        parts: all stages in order, if there were several.
        init_from: the model whose weights the run started from, whose cost is not counted here;
            empty if it started from random weights.
        data: fingerprint of the training rows.
        recipe: fingerprint of the recipe; empty in runs of earlier versions.
        parameters: number of trainable parameters.
    """

    steps: int
    rows_seen: int
    minutes: float
    hardware: str
    skipped_steps: int
    unconverged_fraction: float
    curve: tuple[tuple[float, ...], ...]
    seed: int = 0
    repeats: tuple[Repeat, ...] = ()
    parts: tuple[Part, ...] = ()
    init_from: str = ""
    data: str = ""
    recipe: str = ""
    parameters: int = 0

    def __post_init__(self) -> None:
        convert_fields(self)
        if any(len(point) != 3 for point in self.curve):
            raise ConfigError("a point of a curve has rows seen, seconds and a value")

    @classmethod
    def read(cls, folder: Path) -> TrainingFacts:
        """The facts in a model's folder.

        Raises:
            ModelError: if there are none that can be read.
        """
        path = folder / TRAINING
        if not path.is_file():
            raise ModelError(f"{folder} has no {TRAINING}: stage it from a run")
        try:
            facts: TrainingFacts = convert(read_json(path, TRAINING), cls, TRAINING)
        except ConfigError as error:
            raise ModelError(f"{path} is damaged: stage the model from its run again") from error
        return facts

    @property
    def stages(self) -> tuple[Part, ...]:
        """All stages in order."""
        return self.parts or (Part(self.steps, self.rows_seen, self.minutes, self.hardware),)

    @property
    def batches(self) -> list[int]:
        """Rows of a step in each stage."""
        return [round(stage.rows_seen / max(1, stage.steps)) for stage in self.stages]

    @classmethod
    def of(cls, state: dict[str, Any], parameters: int) -> TrainingFacts:
        """The facts of a run so far, earlier stages included.

        Arguments:
            state: of its trainer.
            parameters: of its model.
        """
        own = cls(
            steps=state["step"],
            rows_seen=state["rows"],
            minutes=round(state["seconds"] / 60, 1),
            hardware=" and ".join(state["hardware"]),
            skipped_steps=state["skipped"],
            unconverged_fraction=state["unconverged"] / max(1, state["logged"]),
            curve=state["curve"],
            seed=state["seed"],
            init_from=state["init_from"],
            data=state["data"],
            parameters=parameters,
        )
        before = state["before"]
        return own.after(convert(before, cls, "before")) if before else own

    def is_like(self, other: TrainingFacts) -> bool:
        """Whether two runs had the same start, length and data: only their seeds may differ."""
        one, two = ((f.steps, f.init_from, f.data, len(f.parts)) for f in (self, other))
        return one == two

    def after(self, before: TrainingFacts) -> TrainingFacts:
        """The facts of this stage and of the stages before it, together."""
        parts = (*before.stages, *self.stages)
        steps = before.steps + self.steps
        unconverged = (run.unconverged_fraction * run.steps for run in (before, self))
        start = max([60 * before.minutes, *(seconds for _, seconds, _ in before.curve)])
        curve = (
            (before.rows_seen + rows, round(start + seconds, 3), value)
            for rows, seconds, value in self.curve
        )
        return replace(
            self,
            steps=steps,
            rows_seen=before.rows_seen + self.rows_seen,
            minutes=round(before.minutes + self.minutes, 1),
            hardware=" and ".join(
                dict.fromkeys(one for part in parts for one in part.hardware.split(" and "))
            ),
            skipped_steps=before.skipped_steps + self.skipped_steps,
            unconverged_fraction=sum(unconverged) / max(1, steps),
            curve=(*before.curve, *curve),
            parts=parts,
            seed=before.seed,
            init_from=before.init_from,
        )

    def text(self) -> str:
        """The content of `training.json`."""
        curve = [(int(rows), seconds, value) for rows, seconds, value in self.curve]
        return json.dumps({**asdict(self), "curve": curve}, indent=1) + "\n"


def start_log(folder: Path, stage: int) -> None:
    """Start an empty log; the log of the stage before is kept as `log-N`, N counted from 1."""
    path = folder / LOG
    earlier = path.with_stem(f"{path.stem}-{stage}")
    if stage and path.is_file() and not earlier.exists():
        path.rename(earlier)
    path.write_text("")


def write_line(folder: Path, state: dict[str, Any], **figures: Any) -> None:
    """Add a line: where the run stands, and the figures."""
    seconds = round(state["seconds"], 3)
    line = {"step": state["step"], "rows_seen": state["rows"], "seconds": seconds, **figures}
    with open(folder / LOG, "a") as file:
        file.write(json.dumps(line) + "\n")


def cut_log(folder: Path, size: int) -> None:
    """Drop what was logged after a checkpoint, when the log had this size: it comes again."""
    path = folder / LOG
    path.touch()
    os.truncate(path, min(size, path.stat().st_size))


def means(steps: list[dict[str, float]]) -> dict[str, float | None]:
    """Mean figures of steps, and the rows per second; skipped steps have no value to count."""
    columns = {key: [figures[key] for figures in steps] for key in steps[0]}
    rows, seconds = sum(columns.pop("rows")), sum(columns.pop("seconds"))
    found = {key: _mean(values) for key, values in columns.items()}
    return {**found, "rows_per_second": float(f"{rows / seconds:.6g}")}


def _mean(values: list[float]) -> float | None:
    """Mean of the finite values, None if there are none: JSON has no NaN."""
    finite = [value for value in values if math.isfinite(value)]
    return float(f"{sum(finite) / len(finite):.6g}") if finite else None
