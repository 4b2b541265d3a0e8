"""What stands beside a model's own number on its card: baselines, papers' figures, siblings.

Figures that no model of the zoo has are in `figures.yaml`, beside the models' folders, by the name
of the data; those of siblings are looked up in their folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from impflow_zoo import registry, results
from impflow_zoo.facts import TrainingFacts
from impflow_zoo.models import layout, store
from impflow_zoo.models.config import ConfigError, convert
from impflow_zoo.recipe import Beside, Recipe, read_recipe

__all__ = ["FIGURES", "beside", "data_option", "evaluate_options"]

FIGURES = "figures.yaml"
_SAME = 0.02  # how far sizes may differ and still be called the same


def beside(folder: Path, recipe: Recipe, zoo: Path) -> list[Beside]:
    """The numbers beside the model of a folder, siblings last.

    Arguments:
        folder, recipe: of the model.
        zoo: where siblings lie, and `figures.yaml`.
    """
    return [*recipe.card.beside, *_figures(zoo, recipe), *_siblings(folder, zoo)]


def _figures(zoo: Path, recipe: Recipe) -> tuple[Beside, ...]:
    path = zoo / FIGURES
    if not path.is_file():
        return ()
    try:
        known = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        entries = known.get(recipe.card.data_name, ())
        found: tuple[Beside, ...] = convert(entries, tuple[Beside, ...], recipe.card.data_name)
    except (yaml.YAMLError, ConfigError, AttributeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    return found


def _siblings(folder: Path, zoo: Path) -> Iterator[Beside]:
    """Other models with weights, scored on the same rows."""
    own = results.published(layout.open_files(folder))
    for path in sorted(zoo.glob(f"*/{layout.RESULTS}")):
        other = path.parent
        score = results.published(layout.open_files(other))
        same = (
            own
            and score
            and (own.data, own.split, own.metric)
            == (
                score.data,
                score.split,
                score.metric,
            )
        )
        if other.name == folder.name or score is None or not same:
            continue
        their = read_recipe(other / layout.RECIPE)
        options = evaluate_options(their, ships=(other / layout.TEST_ROWS).is_file())
        yield Beside(
            f"{other.name}, {_compared(other, folder)}",
            f"{score.value:.3f}",
            f"{score.stderr:.3f}",
            f"`impflow-zoo evaluate {other.name}{options}`",
        )


def _compared(other: Path, own: Path) -> str:
    """Size and rows seen of a model, in words, beside those of another one."""
    (size, rows), (own_size, own_rows) = (_cost(folder) for folder in (other, own))
    same_size = abs(size - own_size) <= _SAME * own_size
    if same_size and rows == own_rows:
        return "same size and rows seen"
    seen = "same rows seen" if rows == own_rows else f"{rows:,} rows seen"
    return f"{'same size' if same_size else f'{size:,} parameters'}, {seen}"


def _cost(folder: Path) -> tuple[int, int]:
    size = registry.parameter_count(store.read_config(layout.open_files(folder)))
    return size, TrainingFacts.read(folder).rows_seen


def data_option(recipe: Recipe) -> str:
    """What training commands need where the recipe names no data."""
    return f" --data {recipe.card.data_argument}" if recipe.data.dataset is None else ""


def evaluate_options(recipe: Recipe, *, ships: bool) -> str:
    """What evaluation commands need where neither the folder nor the recipe has the rows."""
    if recipe.data.dataset is not None or ships:
        return ""
    return f" --dataset {recipe.card.data_argument} --split {recipe.data.test}"
