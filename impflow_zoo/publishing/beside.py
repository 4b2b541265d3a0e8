"""What stands beside a model's own number on its card: baselines, papers' figures, siblings.

Figures that no model of the zoo has are in `figures.yaml`, beside the models' folders, by the name
of the data; those of siblings are looked up in their folders.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from impflow_zoo.models.fields import ConfigError, ModelError, convert
from impflow_zoo.models.folder import TEST_ROWS
from impflow_zoo.recipe import Recipe
from impflow_zoo.record import Record

__all__ = ["FIGURES", "Beside", "data_option", "evaluate_options", "figures", "siblings"]

FIGURES = "figures.yaml"
_SAME = 0.02  # how far sizes may differ and still be called the same


@dataclass(frozen=True)
class Beside:
    """A number that a card shows beside the model's own.

    Arguments:
        name: what it belongs to.
        value: as printed.
        stderr: its standard error, as printed, or empty.
        source: the paper, or the command that makes it again.
    """

    name: str
    value: str
    stderr: str = ""
    source: str = ""


def figures(zoo: Path, data: str) -> tuple[Beside, ...]:
    """What `figures.yaml` in a folder holds of a data set.

    Raises:
        ConfigError: if it cannot be read.
    """
    path = zoo / FIGURES
    if not path.is_file():
        return ()
    try:
        known = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        found: tuple[Beside, ...] = convert(known.get(data, ()), tuple[Beside, ...], data)
    except (yaml.YAMLError, ConfigError, AttributeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    return found


def siblings(record: Record, others: Iterable[Record]) -> Iterator[Beside]:
    """Other models with weights, scored on the same rows."""
    for other in others:
        score = other.entry
        if other.name == record.name or score is None or _rows(other) != _rows(record):
            continue
        try:
            compared = _compared(other, record)
            options = evaluate_options(other.recipe, ships=other.folder.has(TEST_ROWS))
        except ModelError as error:
            said = f"{other.name} cannot be read ({error}): left out of the card of {record.name}"
            warnings.warn(said, stacklevel=2)
            continue
        yield Beside(
            f"{other.name}, {compared}",
            f"{score.value:.3f}",
            f"{score.stderr:.3f}",
            f"`impflow-zoo evaluate {other.name}{options}`",
        )


def _rows(record: Record) -> tuple[str, str, str] | None:
    entry = record.entry
    return (entry.data, entry.split, entry.metric) if entry else None


def _compared(other: Record, own: Record) -> str:
    """Size and rows seen of a model, in words, beside those of another one."""
    rows, own_rows = (record.facts.rows_seen if record.facts else 0 for record in (other, own))
    same_size = abs(other.parameters - own.parameters) <= _SAME * own.parameters
    if same_size and rows == own_rows:
        return "same size and rows seen"
    seen = "same rows seen" if rows == own_rows else f"{rows:,} rows seen"
    return f"{'same size' if same_size else f'{other.parameters:,} parameters'}, {seen}"


def data_option(recipe: Recipe) -> str:
    """What training commands need where the recipe names no data."""
    return " --data FOLDER" if recipe.data.dataset is None else ""


def evaluate_options(recipe: Recipe, *, ships: bool) -> str:
    """What evaluation commands need where neither the folder nor the recipe has the rows."""
    if recipe.data.dataset is not None or ships:
        return ""
    return f" --dataset FOLDER --split {recipe.data.test}"
