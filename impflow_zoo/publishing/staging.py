"""Staging: from a finished run to a folder of the zoo, with its card, pictures and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from impflow_zoo import pictures
from impflow_zoo.evaluation import Result, evaluate, shown_rows
from impflow_zoo.facts import TRAINING, Repeat, TrainingFacts, earlier_recipes, read_log
from impflow_zoo.models import layout, store, writing
from impflow_zoo.models.config import ImageConfig, ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.publishing.cards import CURVE, PICTURE, pending_card, trained_card
from impflow_zoo.publishing.scores import SCORES, serialised
from impflow_zoo.recipe import Recipe, differences, fingerprint, read_recipe
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
        repeats: finished runs of the same recipe with other seeds, which are scored on the same
            rows; none keeps the figures of those that were staged before, unless there is a new
            `run`.

    Returns:
        The score that the card reports; None if there are no weights.

    Raises:
        ModelError: if the run has no weights, the folder no recipe or one without words for the
            card, or weights, run or a repeat are of another recipe than the folder's. The folder
            is left as it was.
    """
    recipe = read_recipe(folder / layout.RECIPE)
    _check_words(folder, recipe)
    if run is None and not (folder / layout.WEIGHTS).is_file():
        _announce(folder, recipe)
        return None
    facts = _own_facts(folder, recipe) if run is None else _facts(run, recipe)
    others = _other_seeds(repeats, recipe, facts, run or folder)
    if data is not None:
        split = split or recipe.data.test
    copied, dropped = _to_copy(run, folder, facts)
    written = (*copied, *dropped, TRAINING, SCORES, PICTURE, CURVE, layout.CARD)
    with _all_or_nothing([folder / name for name in written]):
        for name, content in copied.items():
            writing.write_whole(folder / name, content)
        for name in dropped:
            (folder / name).unlink()
        model = FlowModel.from_pretrained(folder, verify=True)
        _check_config(model, recipe, run or folder)
        result = evaluate(model, data, split, progress=True)
        if others:
            rows = (result.dataset, result.split)
            facts = replace(facts, repeats=tuple(_score(*other, *rows) for other in others))
        writing.write_whole(folder / TRAINING, facts.text().encode())
        writing.write_whole(folder / SCORES, serialised(result, recipe))
        pictures.draw_density(model, shown_rows(model, result), folder / PICTURE)
        pictures.draw_curve(facts.curve, METRICS[model.config.metric].unit, folder / CURVE)
        card = trained_card(folder.name, model, recipe, result, facts)
        writing.write_whole(folder / layout.CARD, card.encode())
    return result


def _to_copy(
    run: Path | None, folder: Path, facts: TrainingFacts
) -> tuple[dict[str, bytes], list[str]]:
    """Files to take from a run, and recipes of the folder's weights that these have not seen."""
    missing = [name for name in facts.earlier_recipes if not ((run or folder) / name).is_file()]
    if missing:
        raise ModelError(f"{run or folder} has no {missing[0]}, the recipe of an earlier run")
    if run is None:
        return {}, []
    names = (layout.WEIGHTS, layout.GOLDEN, layout.CONFIG, *facts.earlier_recipes)
    before = earlier_recipes(folder)
    dropped = [name for name in before if name not in names and (folder / name).is_file()]
    return {name: (run / name).read_bytes() for name in names}, dropped


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


def _check_words(folder: Path, recipe: Recipe) -> None:
    """A card that does not say what the data are and whose is none."""
    needed = ("summary", "data_name", "data_license")
    missing = [f"card.{name}" for name in needed if not getattr(recipe.card, name)]
    if missing:
        raise ModelError(f"{folder / layout.RECIPE}: {', '.join(missing)} missing, for the card")


def _own_facts(folder: Path, recipe: Recipe) -> TrainingFacts:
    """What is known of the weights in a folder, if they are of its recipe."""
    facts = TrainingFacts.read(folder)
    if not facts.is_by(recipe):
        raise ModelError(
            f"{folder / layout.RECIPE} was changed since the weights beside it were trained: put "
            "it back, or stage the model from a new run"
        )
    return facts


def _facts(run: Path, recipe: Recipe) -> TrainingFacts:
    """What a run says of itself, if it is one of the recipe, which the card will tell of."""
    path = run / layout.RECIPE
    changed = differences(read_recipe(path), recipe) if path.is_file() else []
    if changed:
        raise ModelError(
            f"{run} was trained by another recipe than the folder's ({', '.join(changed)}): copy "
            f"{path} there, and the words for the card into it"
        )
    return replace(_facts_of(run), recipe=fingerprint(recipe))


def _facts_of(run: Path) -> TrainingFacts:
    """What a run says of itself, if it has weights to stage."""
    if not (run / layout.WEIGHTS).is_file():
        raise ModelError(f"{run} holds no weights yet: a run keeps them at its first validation")
    if not (run / LOG).is_file():
        raise ModelError(f"{run} has no {LOG}: it is no folder of a run")
    return read_log(run / LOG)


def _check_config(model: FlowModel, recipe: Recipe, origin: Path) -> None:
    config = model.config
    if not isinstance(config, ImageConfig) and not getattr(recipe.config, "columns", ()):
        config = replace(config, columns=())  # training has named them
    if (type(model).__name__, config) != (recipe.model, recipe.config):
        raise ModelError(
            f"the weights in {origin} are of another model than the recipe's: its card would tell "
            "how to train something else; train it again, or put the recipe back"
        )


def _other_seeds(
    repeats: Sequence[Path], recipe: Recipe, staged: TrainingFacts, origin: Path
) -> list[tuple[Path, TrainingFacts]]:
    """Runs that differ from the staged one in their seeds alone, with what they say."""
    others = [(run, _facts_of(run)) for run in repeats]
    seeds = {staged.seed}
    for run, facts in others:
        if facts.seed in seeds:
            raise ModelError(f"{run} has seed {facts.seed}, as another run has: --seed a new one")
        seeds.add(facts.seed)
        if (
            not facts.is_like(staged)
            or differences(read_recipe(run / layout.RECIPE), recipe)
            or any(
                (run / name).read_bytes() != (origin / name).read_bytes()
                for name in facts.earlier_recipes
            )
        ):
            raise ModelError(
                f"{run} is a run of another recipe or length: only the seed may differ"
            )
    return others


def _score(run: Path, facts: TrainingFacts, data: str, split: str | None) -> Repeat:
    """The result of a run on the rows that the card speaks of."""
    result = evaluate(FlowModel.from_pretrained(run, verify=True), data, split, progress=True)
    return Repeat(facts.seed, result.value, result.stderr, facts.rows_seen, facts.minutes)


@contextmanager
def _all_or_nothing(paths: Sequence[Path]) -> Iterator[None]:
    """If something fails, the files are as they were."""
    before = {path: path.read_bytes() if path.is_file() else None for path in paths}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                writing.write_whole(path, content)
        raise
