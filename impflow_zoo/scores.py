"""`scores.safetensors`: the metric of each row that a card speaks of, to compare models by row."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from impflow_zoo.models.layout import read_safetensors

__all__ = ["SCORES", "paired_error", "serialised"]

SCORES = "scores.safetensors"
_KEY = "metric"


def serialised(values: Tensor) -> bytes:
    """The content of the file, from the metric of each row, `[n]`."""
    return serialise({_KEY: values.float().contiguous()})


def paired_error(one: Path, other: Path) -> float | None:
    """Standard error of the difference of two models' means over the same rows.

    Rows that are hard for one model are hard for the other: this error is smaller than that of two
    independent means.

    Arguments:
        one, other: folders of two models of the same data.

    Returns:
        None where a folder has no scores, or their numbers of rows differ.
    """
    if not all((folder / SCORES).is_file() for folder in (one, other)):
        return None
    first, second = (read_safetensors(folder / SCORES)[_KEY].double() for folder in (one, other))
    if first.shape != second.shape or len(first) < 2:
        return None
    difference: Tensor = first - second
    return float(torch.std(difference)) / len(difference) ** 0.5
