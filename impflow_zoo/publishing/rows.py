"""What the folders of the zoo say, a row for each model."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from impflow_zoo import registry
from impflow_zoo.facts import TrainingFacts
from impflow_zoo.lipschitz.certify import worst
from impflow_zoo.models import layout, store
from impflow_zoo.recipe import Recipe, read_recipe
from impflow_zoo.results import published

__all__ = ["Row", "read_rows", "results"]


@dataclass(frozen=True)
class Row:
    """A model, as far as its folder tells; fields that nothing tells are empty.

    Arguments:
        model, kind, data: name of the model, its class, its data.
        metric, value, stderr, estimator_stderr, n: the result on its card.
        seeds, seeds_mean, seeds_std: how many seeds the recipe was trained with, the mean of
            their results and its standard deviation (both empty if one).
        parameters: how many trainable numbers.
        margin: `1 - L`, with the largest certified Lipschitz constant `L` of its nets.
        rows_seen, minutes, hardware: what its training cost.
        data_license: of the data.
        sha256: of the weights.
    """

    model: str
    kind: str
    data: str
    metric: str
    value: str
    stderr: str
    estimator_stderr: str
    n: str
    seeds: str
    seeds_mean: str
    seeds_std: str
    parameters: str
    margin: str
    rows_seen: str
    minutes: str
    hardware: str
    data_license: str
    sha256: str


def read_rows(zoo: Path) -> list[Row]:
    """One row for every folder that has a recipe."""
    return [_read(path.parent) for path in sorted(zoo.glob(f"*/{layout.RECIPE}"))]


def _read(folder: Path) -> Row:
    recipe, files = read_recipe(folder / layout.RECIPE), layout.open_files(folder)
    trained = files.has(layout.CONFIG)
    config_file = (
        store.read_config(files) if trained else store.ConfigFile(recipe.model, recipe.config)
    )
    result = published(files)
    facts = TrainingFacts.read(folder) if files.has(layout.TRAINING) else None
    over_seeds = facts.over_seeds(result.value) if facts and result else None
    return Row(
        model=folder.name,
        kind=config_file.model,
        data=_data_name(recipe),
        metric=config_file.config.metric,
        value="" if result is None else str(result.value),
        stderr="" if result is None else str(result.stderr),
        estimator_stderr="" if result is None else str(result.estimator_stderr),
        n="" if result is None else str(result.n),
        seeds="" if facts is None else str(1 + len(facts.repeats)),
        seeds_mean=f"{over_seeds[0]:.5f}" if over_seeds else "",
        seeds_std=f"{over_seeds[1]:.5f}" if over_seeds else "",
        parameters=str(registry.parameter_count(config_file)),
        margin=_margin(config_file),
        rows_seen="" if facts is None else str(facts.rows_seen),
        minutes="" if facts is None else str(facts.minutes),
        hardware="" if facts is None else facts.hardware,
        data_license=recipe.card.data_license,
        sha256=config_file.sha256 or "",
    )


def _data_name(recipe: Recipe) -> str:
    return recipe.card.data_name or recipe.data.dataset or ""


def _margin(config_file: store.ConfigFile) -> str:
    margin = worst(config_file.certificate).margin
    return "" if margin is None else f"{margin:.4f}"


def results(rows: list[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
