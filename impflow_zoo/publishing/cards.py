"""Model cards from templates: what a model is, how good, how trained, what it is not for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from impflow_zoo.lipschitz.certify import worst
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.folder import RECIPE, RESULTS, TEST_ROWS, TRAINING
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.publishing.beside import data_option, evaluate_options, figures, siblings
from impflow_zoo.recipe import Recipe
from impflow_zoo.record import Record
from impflow_zoo.results import Entry

__all__ = ["pending_card", "trained_card"]


def trained_card(record: Record, zoo: Path, others: Iterable[Record] = ()) -> str:
    """The card of a model with weights, from the files in its folder and in those beside it.

    Arguments:
        record: of the model.
        zoo: where the figures of others lie.
        others: records of the models that may stand beside.

    Raises:
        ModelError: if a file or words are missing or damaged.
    """
    recipe, stated, entry, facts = record.recipe, record.stated, record.entry, record.facts
    if entry is None or facts is None:
        missing = RESULTS if entry is None else TRAINING
        raise ModelError(f"{record.folder.name} has no {missing}: stage the model")
    return _rendered(
        "card.md.jinja",
        record,
        entry=entry,
        facts=facts,
        beside=[*figures(zoo, recipe.card.data_name), *siblings(record, others)],
        image=isinstance(stated.config, ImageConfig),
        metric=METRICS[entry.metric],
        columns=getattr(stated.config, "columns", ()),
        rounding=getattr(stated.config, "rounding", ()),
        evaluate_options=evaluate_options(recipe, ships=record.folder.has(TEST_ROWS)),
        scored_data=recipe.data.dataset or "FOLDER",
        settings=recipe.runs[-1],
        over_seeds=record.over_seeds,
        nets=len(stated.certificate),
        certificate=worst(stated.certificate),
    )


def pending_card(record: Record, zoo: Path) -> str:
    """The card of a model whose weights nobody has trained yet: it says so."""
    beside = figures(zoo, record.recipe.card.data_name)
    return _rendered("pending.md.jinja", record, beside=beside)


def _rendered(template: str, record: Record, **texts: Any) -> str:
    """A template with the words of a recipe in it.

    Raises:
        ModelError: if these do not say what the data are and whose.
    """
    recipe = record.recipe
    needed = ("summary", "data_name", "data_license")
    missing = [f"card.{name}" for name in needed if not getattr(recipe.card, name)]
    if missing:
        raise ModelError(
            f"{record.folder.path / RECIPE}: {', '.join(missing)} missing, for the card"
        )
    card = ModelCard.from_template(
        _metadata(record.name, recipe, texts.get("entry"), image=texts.get("image", False)),
        template_str=resources.files("impflow_zoo.publishing")
        .joinpath("templates", template)
        .read_text(encoding="utf-8"),
        name=record.name,
        record=record,
        words=recipe.card,
        train_options=data_option(recipe),
        citation=model_class(recipe.model).citation,
        **texts,
    )
    return str(card)


def _metadata(name: str, recipe: Recipe, entry: Entry | None, *, image: bool) -> ModelCardData:
    """What the Hub reads off a card."""
    words = recipe.card
    known: dict[str, Any] = {}
    if entry is not None:
        known["metrics"] = [entry.metric]
        known["eval_results"] = [
            EvalResult(
                task_type="density-estimation",
                dataset_type=words.dataset_id or words.data_name,
                dataset_name=words.data_name,
                dataset_split=recipe.data.test,
                metric_type=entry.metric,
                metric_value=entry.value,
                metric_args={
                    key: getattr(entry, key) for key in ("stderr", "estimator_stderr", "n", "seed")
                },
            )
        ]
    return ModelCardData(
        license="mit",
        library_name="impflow_zoo",
        pipeline_tag="unconditional-image-generation" if image else None,
        tags=["normalizing-flow", "density-estimation", recipe.model.lower()],
        datasets=[words.dataset_id] if words.dataset_id else None,
        model_name=name,
        **known,
    )
