"""The log of a training run: one JSON object a line, and the means that go into it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from impflow_zoo.models.folder import LOG
from impflow_zoo.models.writing import write_whole

__all__ = ["Meter", "RunLog", "read_lines"]


@dataclasses.dataclass(frozen=True)
class RunLog:
    """The log in a run's folder.

    Arguments:
        folder: the run's.
    """

    folder: Path

    def start(self, stage: int = 0) -> None:
        """An empty log; that of the stage before, counted from 1, is kept under its number."""
        path = self.folder / LOG
        earlier = path.with_stem(f"{path.stem}-{stage}")
        if stage and path.is_file() and not earlier.exists():
            path.rename(earlier)
        path.write_text("")

    def write(self, state: dict[str, Any], **figures: Any) -> None:
        """Add a line: where the run stands, and the figures."""
        line = {
            "step": state["step"],
            "rows_seen": state["rows"],
            "seconds": round(state["seconds"], 3),
            **figures,
        }
        with open(self.folder / LOG, "a") as file:
            file.write(json.dumps(line) + "\n")

    def forget_beyond(self, step: int) -> None:
        """Drop what was logged after a step: a resumed run says it again."""
        path = self.folder / LOG
        kept = [line for line in read_lines(path) if line["step"] <= step] if path.exists() else []
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; what is none is left out, as the last one of a killed run may be cut."""
    return [line for text in path.read_text(errors="replace").splitlines() if (line := _line(text))]


def _line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
        numbers = (line["step"], line["rows_seen"], line["seconds"])
    except (ValueError, KeyError, TypeError):
        return None
    return line if all(isinstance(number, int | float) for number in numbers) else None


@dataclasses.dataclass
class Meter:
    """Means over the steps since the last line of the log; skipped steps have no value to count."""

    figures: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def summary(self) -> dict[str, float | None]:
        """The means, and the rows per second; counting starts anew."""
        columns = {key: [f[key] for f in self.figures] for key in self.figures[0]}
        rows, seconds = sum(columns.pop("rows")), sum(columns.pop("seconds"))
        self.figures = []
        means = {key: _mean(values) for key, values in columns.items()}
        return {**means, "rows_per_second": float(f"{rows / seconds:.6g}")}


def _mean(values: list[float]) -> float | None:
    """Mean of the finite values, None if there are none: JSON has no NaN."""
    finite = [value for value in values if math.isfinite(value)]
    return float(f"{sum(finite) / len(finite):.6g}") if finite else None
