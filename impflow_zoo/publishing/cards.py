"""Model cards from templates: what a model is, how good, how trained, what it is not for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from impflow_zoo.facts import TrainingFacts
from impflow_zoo.lipschitz.certify import worst
from impflow_zoo.models import layout, store
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.config import Config, ImageConfig, ModelError
from impflow_zoo.models.layout import CURVE, PICTURE
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.publishing.beside import beside, data_option, evaluate_options
from impflow_zoo.recipe import Recipe, TrainingSettings, read_recipe
from impflow_zoo.registry import parameter_count
from impflow_zoo.results import Entry, read_results

__all__ = ["CURVE", "IMAGE_PIPELINE", "PICTURE", "pending_card", "trained_card"]

IMAGE_PIPELINE = "unconditional-image-generation"


def trained_card(folder: Path, zoo: Path | None = None) -> str:
    """The card of a model with weights, from the files in its folder and in those beside it.

    Arguments:
        folder: of the model.
        zoo: where siblings lie and figures of others; None is beside the folder.

    Raises:
        ModelError: if a file is missing or damaged.
    """
    name, files = folder.name, layout.open_files(folder)
    recipe, stated = read_recipe(folder / layout.RECIPE), store.read_config(files)
    entry, facts = next(iter(read_results(files)), None), TrainingFacts.read(folder)
    if entry is None:
        raise ModelError(f"{folder} has no {layout.RESULTS}: stage the model")
    image = isinstance(stated.config, ImageConfig)
    card = ModelCard.from_template(
        _metadata(name, recipe, entry, IMAGE_PIPELINE if image else None),
        template_str=_template("card.md.jinja"),
        name=name,
        words=recipe.card,
        beside=beside(folder, recipe, zoo or folder.parent),
        image=image,
        parameters=f"{parameter_count(stated):,}",
        columns=", ".join(getattr(stated.config, "columns", ())),
        rounding=_rounding_text(stated.config),
        citation=model_class(recipe.model).citation,
        **_scores(recipe, entry, ships=files.has(layout.TEST_ROWS)),
        **_training(name, recipe, entry, facts),
        **_guarantees(stated, entry),
    )
    return str(card)


def pending_card(name: str, recipe: Recipe) -> str:
    """The card of a model whose weights nobody has trained yet: it says so."""
    card = ModelCard.from_template(
        _metadata(name, recipe),
        template_str=_template("pending.md.jinja"),
        name=name,
        words=recipe.card,
        train_options=data_option(recipe),
        citation=model_class(recipe.model).citation,
    )
    return str(card)


def _metadata(
    name: str, recipe: Recipe, result: Entry | None = None, pipeline: str | None = None
) -> ModelCardData:
    """What the Hub reads off a card."""
    words = recipe.card
    known: dict[str, Any] = {}
    if result is not None:
        known["metrics"] = [result.metric]
        known["eval_results"] = [
            EvalResult(
                task_type="density-estimation",
                dataset_type=words.dataset_id or words.data_name,
                dataset_name=words.data_name,
                dataset_split=recipe.data.test,
                metric_type=result.metric,
                metric_value=result.value,
                metric_args={
                    "stderr": result.stderr,
                    "estimator_stderr": result.estimator_stderr,
                    "n": result.n,
                    "seed": result.seed,
                },
            )
        ]
    return ModelCardData(
        license="mit",
        library_name="impflow_zoo",
        pipeline_tag=pipeline,
        tags=["normalizing-flow", "density-estimation", recipe.model.lower()],
        datasets=[words.dataset_id] if words.dataset_id else None,
        model_name=name,
        **known,
    )


def _scores(recipe: Recipe, result: Entry, *, ships: bool) -> dict[str, Any]:
    """How good the model is, and the command that finds out."""
    metric, data = METRICS[result.metric], recipe.card.data_argument
    estimator = f"that of the log-det estimator is {result.estimator_stderr:.1e}."
    if result.logdet == "exact":
        estimator = "log-determinants are exact."
    brought = recipe.data.dataset is None
    return {
        "unit": metric.unit,
        "metric_text": metric.text,
        "value": f"{result.value:.3f}",
        "stderr": f"{result.stderr:.3f}",
        "n": f"{result.n:,}",
        "seed": result.seed,
        "estimator_text": estimator,
        "scored_data": data if brought else recipe.data.dataset,
        "split": recipe.data.test,
        "evaluate_options": evaluate_options(recipe, ships=ships),
    }


def _training(name: str, recipe: Recipe, result: Entry, facts: TrainingFacts) -> dict[str, str]:
    """How the weights came about, and the commands that make them again."""
    settings, data = recipe.runs[-1], data_option(recipe)
    seed = f" --seed {facts.seed}" if facts.seed != recipe.training.seed else ""
    whole = facts.last_steps >= settings.steps
    return {
        "training_text": _training_text(facts, settings),
        "train_text": "Train it again" if whole else "Train it to the end of the recipe",
        "train_commands": _train_command(name, facts, data, seed),
        "seeds_text": _seeds_text(result, facts),
        "seed_commands": _seed_commands(name, facts, data) if facts.repeats else "",
    }


def _guarantees(stated: store.ConfigFile, result: Entry) -> dict[str, Any]:
    """What is proven of the nets, and how well rows come back."""
    certificates = stated.certificate
    whole = worst(certificates)
    return {
        "nets": len(certificates),
        "bound": "none" if whole.bound is None else f"{whole.bound:.4f}",
        "margin": "not certified" if whole.margin is None else f"{whole.margin:.4f}",
        "round_trip": f"{result.round_trip:.1e}",
        "round_trip_unit": METRICS[result.metric].round_trip,
    }


def _training_text(facts: TrainingFacts, settings: TrainingSettings) -> str:
    parts = ""
    if facts.parts:
        steps = _listed(f"{part.steps:,}" for part in facts.parts)
        parts = (
            f", in {len(facts.parts)} stages ({steps} steps), each from the weights that the one "
            "before has kept"
        )
    start = f", starting from the weights of {facts.init_from}" if facts.init_from else ""
    rate = f"learning rate {settings.learning_rate:g}{' in the last stage' if facts.parts else ''}"
    batches = _listed(dict.fromkeys(map(str, facts.batches)))
    return (
        f"{_steps_text(facts, settings.steps)} of {batches} rows "
        f"({facts.rows_seen:,} rows seen), {facts.minutes:.0f} minutes on {facts.hardware}"
        f"{parts}{start}: Adam(0.9, 0.99), {rate}, weights averaged (decay "
        f"{settings.ema_decay:g}), the best on the validation split kept. {facts.skipped_steps} "
        f"steps skipped; {facts.unconverged_fraction:.1e} of the roots missed the training "
        "tolerance."
    )


def _steps_text(facts: TrainingFacts, planned: int) -> str:
    if facts.last_steps < planned and not facts.parts:
        return f"The first {facts.steps:,} of the recipe's {planned:,} steps"
    return f"{facts.steps:,} steps"


def _listed(texts: Iterable[str]) -> str:
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def _train_command(name: str, facts: TrainingFacts, data_option: str, options: str) -> str:
    """What trains the weights again."""
    start = f" --init-from {facts.init_from}" if facts.init_from else ""
    return f"impflow-zoo train hub_configs/{name}/{layout.RECIPE}{data_option}{start}{options}"


def _seed_commands(name: str, facts: TrainingFacts, data_option: str) -> str:
    """What trains the first of the other seeds."""
    options = f" --seed {facts.repeats[0].seed} --out runs/again"
    return _train_command(name, facts, data_option, options)


def _seeds_text(result: Entry, facts: TrainingFacts) -> str:
    over_seeds = facts.over_seeds(result.value)
    if over_seeds is None:
        return ""
    mean, deviation = over_seeds
    others = ", ".join(f"{r.value:.3f} (seed {r.seed})" for r in facts.repeats)
    return (
        f"Trained again with other seeds the recipe comes to {others}: {mean:.3f} in the mean of "
        f"{1 + len(facts.repeats)} runs, {deviation:.3f} their standard deviation. These weights "
        f"are those of seed {facts.seed}."
    )


def _template(name: str) -> str:
    return resources.files("impflow_zoo.publishing").joinpath("templates", name).read_text()


def _rounding_text(config: Config) -> str:
    steps = getattr(config, "rounding", ())
    if not any(steps):
        return ""
    return (
        "Values are rounded in the data; uniform noise of one rounding step "
        f"({', '.join(f'{s:g}' for s in steps)}) was added before training and is added, seeded by "
        "row, before scoring: a density could otherwise gain without bound by fitting the grid."
    )
