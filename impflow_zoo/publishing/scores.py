"""`scores.safetensors`: the metric of each row that a card speaks of, to compare models by row."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from impflow_zoo.evaluation import Result
from impflow_zoo.models.folder import SCORES, ModelFolder
from impflow_zoo.recipe import Recipe

__all__ = ["paired_error", "serialised"]

_KEY, _ROWS = "metric", "rows"


def serialised(result: Result, recipe: Recipe) -> bytes:
    """The content of the file: the metric of each row, float32, and which rows they are."""
    assert result.per_row is not None
    rows = [recipe.card.data_name, recipe.data.test, result.seed]
    # One entry: several would come in an order of their own in every file.
    metadata = {_ROWS: json.dumps(rows)}
    return serialise({_KEY: result.per_row.float().contiguous()}, metadata=metadata)


def paired_error(one: ModelFolder, other: ModelFolder) -> float | None:
    """Standard error of the difference of two models' means over the same rows.

    Rows that are hard for one model are hard for the other: this error is smaller than that of two
    independent means.

    Returns:
        None where a folder has no scores, or they are not of the same rows and noise.
    """
    if not (one.has(SCORES) and other.has(SCORES)):
        return None
    (first, rows), (second, other_rows) = (_read(f.path / SCORES) for f in (one, other))
    if rows != other_rows or first.shape != second.shape or len(first) < 2:
        return None
    return float(torch.std(first - second)) / len(first) ** 0.5


def _read(path: Path) -> tuple[Tensor, str | None]:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(_KEY).double(), (file.metadata() or {}).get(_ROWS)
