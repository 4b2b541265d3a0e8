"""Staging: from a finished run to a folder of the zoo, with its card, pictures and figures."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from impflow_zoo.data import TableSource, open_table
from impflow_zoo.data.source import Source, checksum
from impflow_zoo.evaluation import Result, evaluate, shown_rows
from impflow_zoo.evaluation.entries import Entry, results_text
from impflow_zoo.evaluation.row_scores import scores_file
from impflow_zoo.models.config import Config
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import (
    CARD,
    CHECKPOINT,
    CONFIG,
    CURVE,
    FITTED,
    GOLDEN,
    PICTURE,
    PUBLISHED,
    RECIPE,
    RESULTS,
    SCORES,
    TEST_ROWS,
    TRAINING,
    WEIGHTS,
)
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.rows import open_rows
from impflow_zoo.models.writing import write_whole
from impflow_zoo.plots import pictures
from impflow_zoo.training.checkpoint import checkpoint_state
from impflow_zoo.training.facts import Repeat, TrainingFacts
from impflow_zoo.training.folders import only_run
from impflow_zoo.training.recipe import Recipe, differences, fingerprint, read_recipe
from impflow_zoo.training.state import check_state
from impflow_zoo.zoo.cards import checked_words, local_address, model_card
from impflow_zoo.zoo.comparison import comparison
from impflow_zoo.zoo.record import Record

__all__ = ["stage"]

_LEVEL = 1e-3  # scores of the same rows on two machines differ by less
_MADE = (WEIGHTS, GOLDEN, CONFIG, TRAINING, SCORES, RESULTS, PICTURE, CURVE, CARD)


def stage(
    run: Path | None,
    folder: Path,
    *,
    data: str | None = None,
    repeats: Sequence[Path] = (),
) -> Result:
    """Update a model's folder: weights from a run, scores, pictures, card.

    In a checkout, what compares the models follows: `results.csv` and the table of the README.

    Arguments:
        run: folder of a training run; None keeps the weights in `folder`.
        folder: folder of the model, with its `recipe.yaml`.
        data: data to evaluate on, in the recipe's test split, or a single file, which is this split
            whatever its name; None takes the split that ships with the model, else the recipe's
            data.
        repeats: finished runs of the same recipe with other seeds, which are evaluated on the same
            rows. The scores of earlier repeats with further seeds are kept, unless there is a new
            `run`.

    Returns:
        The score that the card reports.

    Raises:
        ModelError: if there are no weights, if the folder has no recipe or one without texts for
            the card, if weights, run or a repeat belong to another recipe than the folder's, or if
            the folder ships other rows than `data` or keeps repeats on other rows, or if `data`
            begin with the rows that `train` was given, or if another `stage` works on the folder.
            The folder is not changed then.
    """
    folder = Path(os.path.abspath(folder))  # a link keeps its own name
    with only_run(folder, "another `stage` works on {}: wait until it ends"):
        return _stage(run, folder, data, repeats)


def _stage(run: Path | None, folder: Path, data: str | None, repeats: Sequence[Path]) -> Result:
    """Stage as `stage` says; nobody else works on the folder meanwhile."""
    entry = ModelFolder(folder)
    if not entry.has(RECIPE):
        copied = (
            "" if run is None else f": copy {run / RECIPE} there, and add the texts of the card"
        )
        raise ModelError(f"{folder} has no {RECIPE}{copied}")
    recipe = read_recipe(folder / RECIPE)
    checked_words(Record(entry))
    if run is None and not entry.has(WEIGHTS):
        raise ModelError(f"{folder} has no weights: stage it from a run (--run)")
    facts = _own_facts(folder, recipe) if run is None else _facts(run, recipe)
    others = _other_seeds(repeats, recipe, facts)
    scored_again = {other.seed for _, other in others}
    kept = [repeat for repeat in facts.repeats if repeat.seed not in scored_again]
    with tempfile.TemporaryDirectory() as elsewhere:
        made = Path(elsewhere) / folder.name
        made.mkdir()
        for name in filter(entry.has, PUBLISHED):
            shutil.copyfile(folder / name, made / name)
        if run is not None:
            for name in (WEIGHTS, GOLDEN, CONFIG):
                shutil.copyfile(run / name, made / name)
        draft = ModelFolder(made)
        model = FlowModel.from_pretrained(made, verify=True)
        _check_config(model, recipe, run or folder)
        split = None if data is None or os.path.isfile(data) else recipe.data.test
        if data is not None and draft.has(TEST_ROWS):
            _require_shipped(model.config, data, split, made / TEST_ROWS, folder)
        if data is not None:
            source = open_rows(model.config, data, split, weights=recipe.data.weights)
            _refuse_trained(source, data, run or folder)
        result = evaluate(model, data, split, progress=True)
        if kept:
            _require_same_rows(result, Record(draft).entry, folder)
        scored = [_repeat(*other, result.dataset, result.split) for other in others]
        facts = replace(facts, repeats=tuple(sorted([*kept, *scored], key=lambda one: one.seed)))
        (made / TRAINING).write_text(facts.text())
        (made / SCORES).write_bytes(scores_file(result, recipe.card.data_name, recipe.data.test))
        score = Entry.of(result, recipe.card.data_name, recipe.data.test, draft.config().sha256)
        rows, known = (score.data, score.split), () if run else Record(draft).entries
        own = (None, score.sha256)
        more = [e for e in known if (e.data, e.split) != rows and e.sha256 in own]
        (made / RESULTS).write_text(results_text([score, *more]))
        pictures.draw_density(model, shown_rows(model, result), made / PICTURE)
        pictures.draw_curves([("", result.metric, [facts.curve])], [""], made / CURVE)
        card = model_card(Record(draft), address=local_address(folder))
        (made / CARD).write_text(card, encoding="utf-8")
        entry.replace({name: (made / name).read_bytes() for name in _MADE})
    for path, text in comparison(folder.parent).items():
        write_whole(path, text.encode())
    if result.dataset == str(made / TEST_ROWS):
        result = replace(result, dataset=str(folder / TEST_ROWS))
    return result


def _own_facts(folder: Path, recipe: Recipe) -> TrainingFacts:
    """The facts of the weights in a folder, which have to be of its recipe."""
    facts = TrainingFacts.read(folder)
    _require_trained_by(facts, recipe, folder)
    return facts


def _require_trained_by(facts: TrainingFacts, recipe: Recipe, folder: Path) -> None:
    """Refuse weights that were trained by the recipe as it was before somebody changed it."""
    if facts.recipe not in ("", fingerprint(recipe)):
        raise ModelError(
            f"{folder / RECIPE} was changed after its weights were trained: restore it, or stage "
            "the model from a new run"
        )


def _facts(run: Path, recipe: Recipe) -> TrainingFacts:
    """The facts of a run, which has to be of the recipe."""
    path = run / RECIPE
    changed = differences(read_recipe(path), recipe) if path.is_file() else []
    if changed:
        raise ModelError(
            f"{run} was trained with another recipe than the folder's ({', '.join(changed)}): copy "
            f"{path} to the folder, and add the texts of the card"
        )
    facts = _facts_of(run)
    if path.is_file():  # runs of other programs may have none
        _require_trained_by(facts, recipe, run)
    return replace(facts, recipe=fingerprint(recipe), repeats=())


def _facts_of(run: Path) -> TrainingFacts:
    """The facts of a run, which has to have weights."""
    if not run.is_dir():
        raise ModelError(f"{run} is not the folder of a run")
    if not ModelFolder(run).has(WEIGHTS):
        raise ModelError(f"{run} holds no weights yet: the first validation saves them")
    return TrainingFacts.read(run)


def _check_config(model: FlowModel, recipe: Recipe, origin: Path) -> None:
    config = model.config
    if not isinstance(config, ImageConfig) and not recipe.config.columns:
        config = replace(config, columns=())  # training has named them
    parts = model.parts
    own = (type(parts[0]).__name__, len(parts), config)
    if own != (recipe.model, recipe.ensemble, recipe.config):
        raise ModelError(
            f"the weights in {origin} belong to another model than the recipe: "
            "train the model again, or restore the recipe"
        )


def _require_shipped(
    config: Config, data: str, split: str | None, shipped: Path, folder: Path
) -> None:
    """Refuse other rows than those that the folder ships: its card's command takes these."""
    sources = open_rows(config, data, split), open_rows(config, str(shipped), None)
    if len({checksum(source) for source in sources}) > 1:
        raise ModelError(
            f"{folder} ships {TEST_ROWS} with other rows than {data}: delete this file, or leave "
            "--data out"
        )


def _refuse_trained(rows: Source, data: str, run: Path) -> None:
    """Refuse the rows of a training as test rows."""
    if _of_training(rows, run) or _of_fit(rows, run / FITTED / "train.parquet"):
        raise ModelError(
            f"{run} was trained on rows of {data}: give --data rows that it has not seen"
        )


def _of_training(rows: Source, run: Path) -> bool:
    """Whether rows begin with those of a training; those that it validated on may follow."""
    for checkpoint in (*run.glob(CHECKPOINT), *run.glob(f"seed-*/{CHECKPOINT}")):
        state = checkpoint_state(checkpoint, check_state)
        seen = state["data_rows"]
        if seen <= len(rows) and checksum(rows.part(range(seen))) == state["checksum"]:
            return True
    return False


def _of_fit(rows: Source, trained: Path) -> bool:
    """Whether all rows of a file that `fit` has written are among rows, in any order."""
    if not (trained.is_file() and isinstance(rows, TableSource)):
        return False
    own = open_table(trained, columns=rows.columns)
    found, wanted = (
        {row.tobytes() for row in table.rows(range(len(table))).numpy()} for table in (rows, own)
    )
    return wanted <= found


def _require_same_rows(result: Result, known: Entry | None, folder: Path) -> None:
    """Refuse a score on other rows than those of the repeats that are kept."""
    alike = known is not None and known.n == result.n
    if known is None or not alike or abs(known.value - result.value) > _LEVEL:
        raise ModelError(
            f"the repeats in {folder / TRAINING} are not known to be scored on these rows: score "
            "them again, with --repeat"
        )


def _other_seeds(
    repeats: Sequence[Path], recipe: Recipe, staged: TrainingFacts
) -> list[tuple[Path, TrainingFacts]]:
    """The repeats with their facts; they may differ from the staged run in the seed alone."""
    others = [(run, _facts_of(run)) for run in repeats]
    asked = {facts.seed for _, facts in others}
    seeds = [staged.seed, *(one.seed for one in staged.repeats if one.seed not in asked)]
    for run, facts in others:
        if facts.seed in seeds:
            raise ModelError(f"{run} has seed {facts.seed} like another run: use another --seed")
        if near := [seed for seed in seeds if abs(facts.seed - seed) < recipe.ensemble]:
            raise ModelError(
                f"{run} has trainings in common with the run of seed {near[0]}: the seeds of "
                f"ensembles have to differ by {recipe.ensemble} or more"
            )
        seeds.append(facts.seed)
        changed = differences(read_recipe(run / RECIPE), recipe)
        if changed or not facts.is_like(staged):
            raise ModelError(f"{run} has another recipe or length: only the seed may differ")
    return others


def _repeat(run: Path, facts: TrainingFacts, data: str, split: str | None) -> Repeat:
    """The result of a run on the rows that the card speaks of."""
    result = evaluate(FlowModel.from_pretrained(run, verify=True), data, split, progress=True)
    return Repeat(facts.seed, result.value, result.stderr, facts.rows_seen, facts.minutes)
