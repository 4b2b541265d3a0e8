"""The log of a training run: one JSON object a line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from impflow_zoo.models.folder import LOG
from impflow_zoo.models.writing import write_whole

__all__ = ["forget_beyond", "means", "read_lines", "start_log", "write_line"]


def start_log(folder: Path, stage: int) -> None:
    """An empty log; that of the stage before, counted from 1, is kept under its number."""
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


def forget_beyond(folder: Path, step: int) -> None:
    """Drop what was logged after a step: a resumed run says it again."""
    path = folder / LOG
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
