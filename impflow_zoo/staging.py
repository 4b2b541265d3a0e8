"""Staging: from a finished run to a folder of the zoo, with its card, pictures and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from impflow_zoo import pictures
from impflow_zoo.cards import CURVE, PICTURE, pending_card, trained_card
from impflow_zoo.evaluation import UNITS, Result, evaluate, shown_rows
from impflow_zoo.facts import TRAINING, Repeat, TrainingFacts, read_log
from impflow_zoo.models import layout, store, writing
from impflow_zoo.models.config import ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.recipe import Recipe, read_recipe
from impflow_zoo.runlog import LOG

__all__ = ["stage"]


def stage(
    run: Path | None,
    folder: Path,
    *,
    data: str | None = None,
    split: str | None = None,
    repeats: Sequence[Path] = (),
) -> Result | None:
    """Bring a model's folder up to date: weights from a run, figures, pictures, card.

    Arguments:
        run: folder of a training run; None keeps the weights that are in `folder`. Where there
            are none, config and card say that none were trained.
        folder: folder of the model, with its `recipe.yaml`.
        data: what to score on; None takes the split that ships with the model, else the recipe's.
        split: split of the data; None takes the recipe's test split.
        repeats: runs of the same recipe with other seeds, which are scored on the same rows; none
            keeps the figures of those that were staged before, unless there is a new `run`.

    Returns:
        The score that the card reports; None if there are no weights.

    Raises:
        ModelError: if the run has no weights or the folder no recipe.
    """
    recipe = read_recipe(folder / layout.RECIPE)
    if run is None and not (folder / layout.WEIGHTS).is_file():
        _announce(folder, recipe)
        return None
    if run is not None:
        _copy_run(run, folder)
    model = FlowModel.from_pretrained(folder, verify=True)
    if data is not None:
        split = split or recipe.data.test
    result = evaluate(model, data, split, progress=True)
    pictures.draw_density(model, shown_rows(model, result), folder / PICTURE)
    facts = TrainingFacts.read(folder)
    if repeats:
        scored = [_score(repeat, model, facts.seed, data, split) for repeat in repeats]
        facts = replace(facts, repeats=scored)
        writing.write_whole(folder / TRAINING, facts.text().encode())
    pictures.draw_curve(facts.curve, UNITS[model.config.metric], folder / CURVE)
    card = trained_card(folder.name, model, recipe, result, facts)
    writing.write_whole(folder / layout.CARD, card.encode())
    return result


def _announce(folder: Path, recipe: Recipe) -> None:
    """Write config and card of a model without weights."""
    if (folder / layout.CONFIG).is_file():
        recorded = store.read_config(layout.open_files(folder)).sha256
        if recorded is not None:
            raise ModelError(f"{folder} records weights but has none: stage it from a run (--run)")
    contents = {
        folder / layout.CONFIG: store.description(recipe.model, recipe.config),
        folder / layout.CARD: pending_card(folder.name, recipe).encode(),
    }
    writing.write_together(contents)


def _copy_run(run: Path, folder: Path) -> None:
    if not (run / layout.WEIGHTS).is_file():
        raise ModelError(f"{run} holds no weights yet: a run keeps them at its first validation")
    facts = read_log(run / LOG).text()
    names = (layout.WEIGHTS, layout.GOLDEN, layout.CONFIG)
    contents = {folder / name: (run / name).read_bytes() for name in names}
    writing.write_together({**contents, folder / TRAINING: facts.encode()})


def _score(run: Path, model: FlowModel, seed: int, data: str | None, split: str | None) -> Repeat:
    """The result of a run that differs from the staged one in its seed alone."""
    other, facts = FlowModel.from_pretrained(run, verify=True), read_log(run / LOG)
    if type(other) is not type(model) or other.config != model.config:
        raise ModelError(f"{run} is a run of another recipe: only the seed may differ")
    if facts.seed == seed:
        raise ModelError(f"{run} has seed {seed}, as the staged run has: --seed another one")
    result = evaluate(other, data, split, progress=True)
    return Repeat(facts.seed, result.value, result.stderr, facts.rows_seen, facts.minutes)
