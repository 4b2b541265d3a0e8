"""`training.json`: what a model's training cost, and what other seeds came to."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from impflow_zoo.models.config import ModelError
from impflow_zoo.runlog import read_lines

__all__ = ["TRAINING", "Repeat", "TrainingFacts", "read_log"]

TRAINING = "training.json"


@dataclass(frozen=True)
class Repeat:
    """A run of the same recipe with another seed.

    Arguments:
        seed: its seed.
        value, stderr: its result on the rows that the card speaks of.
        rows_seen, minutes: what it cost.
    """

    seed: int
    value: float
    stderr: float
    rows_seen: int
    minutes: float


@dataclass(frozen=True)
class TrainingFacts:
    """What a run says of itself.

    Arguments:
        steps, rows_seen, minutes, hardware: what it cost.
        skipped_steps: that were not finite.
        unconverged_fraction: of roots that missed the training tolerance.
        curve: rows seen, seconds and value of each validation.
        seed: of the run.
        repeats: runs with other seeds.
    """

    steps: int
    rows_seen: int
    minutes: float
    hardware: str
    skipped_steps: int
    unconverged_fraction: float
    curve: list[list[float]]
    seed: int = 0
    repeats: list[Repeat] = field(default_factory=list)

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
            known = json.loads(path.read_text())
            return cls(**{**known, "repeats": [Repeat(**r) for r in known.get("repeats", ())]})
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} is damaged: stage the model from its run again") from error

    def text(self) -> str:
        """What `read` reads."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def over_seeds(self, value: float) -> tuple[float, float] | None:
        """Mean and standard deviation over seeds, this run's own value among them.

        Returns:
            None if there is one seed only.
        """
        if not self.repeats:
            return None
        values = [value, *(repeat.value for repeat in self.repeats)]
        return statistics.mean(values), statistics.stdev(values)


def read_log(log: Path) -> TrainingFacts:
    """What a training log says of cost and progress.

    Raises:
        ModelError: if it says nothing.
    """
    lines = read_lines(log)
    if not lines:
        raise ModelError(f"{log} holds no line of a training: is the run still at its start?")

    def first(key: str, default: Any) -> Any:
        return next((line[key] for line in lines if key in line), default)

    unconverged = [line["unconverged"] for line in lines if "unconverged" in line]
    return TrainingFacts(
        steps=lines[-1]["step"],
        rows_seen=lines[-1]["rows_seen"],
        minutes=round(lines[-1]["seconds"] / 60, 1),
        hardware=first("hardware", "not recorded"),
        skipped_steps=max((line.get("skipped", 0) for line in lines), default=0),
        unconverged_fraction=sum(unconverged) / len(unconverged) if unconverged else 0.0,
        curve=[
            [line["rows_seen"], line["seconds"], round(line["validation"], 5)]
            for line in lines
            if line.get("validation") is not None
        ],
        seed=first("seed", 0),
    )
