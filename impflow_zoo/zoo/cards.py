"""Model cards, rendered from a template and the files of a model's folder.

A card speaks of its own model alone, so that it changes only with its folder. The page
`docs/models.md` and `results.csv` compare models.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from impflow_zoo.data.names import all_listed, in_quotes
from impflow_zoo.evaluation.entries import Entry
from impflow_zoo.lipschitz.certify import worst
from impflow_zoo.models import registry
from impflow_zoo.models.classes import family_of, model_class
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import (
    CURVE,
    GOLDEN,
    PICTURE,
    RECIPE,
    RESULTS,
    TEST_ROWS,
    TRAINING,
)
from impflow_zoo.models.folder import read_safetensors
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.model_config import ModelConfig
from impflow_zoo.models.texts import in_line, in_markdown
from impflow_zoo.training.recipe import Recipe
from impflow_zoo.zoo.install import install_line
from impflow_zoo.zoo.record import Record

__all__ = ["Origin", "checked_words", "local_address", "model_card", "time_spent"]


@dataclass(frozen=True)
class Origin:
    """What `fit` knows of a model, for its card.

    Arguments:
        folder: of the model, with its rows in `data`.
        again: the command that makes the model again.
        table: what was tried, in Markdown.
    """

    folder: str
    again: str
    table: str


def _example(record: Record) -> tuple[float, ...]:
    """A context of the golden batch, for the lines of code on a card; none if there is none."""
    if record.stated.config.context_features is None:
        return ()
    golden = read_safetensors(record.folder.path / GOLDEN)
    return tuple(float(f"{value:.3g}") for value in golden["context"][0].tolist())


def _ends(config: ModelConfig) -> list[str]:
    """What is known of the values of columns: their bounds, and the turns of angles."""

    def text(low: float | None, high: float | None) -> str:
        least, most = (
            None if x is None else repr(float(x)).removesuffix(".0") for x in (low, high)
        )
        if least is None or most is None:
            return f"at most {most}" if least is None else f"at least {least}"
        return f"{least} to {most}"

    bounds = [f"{in_quotes(name)} {text(*ends)}" for name, ends in config.bounds.items()]
    turns = [f"{in_quotes(name)} an angle, {text(*ends)}" for name, ends in config.turns.items()]
    return bounds + turns


def _steps(config: ModelConfig) -> list[str]:
    """Rounding steps of columns by name, or without names if they have none."""
    names = (*config.columns, *config.context_columns)
    pairs = itertools.zip_longest(names, getattr(config, "rounding", ()), fillvalue="")
    return [f"{in_quotes(name)} {step:g}" if name else f"{step:g}" for name, step in pairs if step]


def _given(record: Record, example: Sequence[float]) -> str:
    """What `--given` takes: an example, or a file if a name needs quotes in a shell."""
    names = record.stated.config.context_columns
    if not all(re.fullmatch(r"[\w.-]+", name) for name in names):
        return "FILE"
    return ",".join(f"{name}={value:g}" for name, value in zip(names, example, strict=False))


def _evaluate_options(record: Record) -> str:
    """Options that `evaluate` needs where neither the folder nor the recipe has the rows."""
    data = record.recipe.data
    if data.dataset is not None or record.folder.has(TEST_ROWS):
        return ""
    return f" --dataset FOLDER --split {data.test}"


def model_card(record: Record, *, address: str = "", origin: Origin | None = None) -> str:
    """The card of a model with weights, from the files in its folder.

    Arguments:
        record: of the model.
        address: the Hub id or folder that the card names; by default the name of a model of the
            zoo, else its folder, seen from the folder that holds it.
        origin: what `fit` knows, for a model that it has found.

    Raises:
        ModelError: if a file or words are missing or damaged.
    """
    entry, facts, recipe, name = record.entry, record.facts, record.recipe, record.name
    address = address or local_address(record.folder.path)
    if entry is None or facts is None:
        missing = RESULTS if entry is None else TRAINING
        raise ModelError(f"{record.folder.name} has no {missing}: stage the model")
    checked_words(record)
    families = [family_of(kind) or recipe.model for kind in recipe.config.block_names]
    models = dict.fromkeys(families or [recipe.model])
    citation = "\n\n".join(model_class(name).citation for name in models)
    example, image = _example(record), isinstance(record.stated.config, ImageConfig)
    card = ModelCard.from_template(
        _metadata(name, recipe, entry, image=image),
        template_str=resources.files("impflow_zoo.zoo")
        .joinpath("templates", "card.md.jinja")
        .read_text(encoding="utf-8"),
        name=name,
        record=record,
        recipe=recipe,
        words=recipe.card,
        all_listed=all_listed,
        in_line=in_line,
        in_markdown=in_markdown,
        quoted=lambda text: in_line(shlex.quote(text)),
        literal=json.dumps(address, ensure_ascii=False),
        train_options=" --data FOLDER" if recipe.data.dataset is None else "",
        citation=citation,
        papers=re.findall(r"\btitle=\{(.+?)\}.*?\burl=\{(.+?)\}", citation, re.DOTALL),
        address=address,
        origin=origin,
        pictures=[name for name in (PICTURE, CURVE) if record.folder.has(name)],
        entry=entry,
        facts=facts,
        minutes=time_spent(facts.minutes),
        config=record.stated.config,
        ends=_ends(record.stated.config),
        steps=_steps(record.stated.config),
        example=example,
        given=_given(record, example),
        image=image,
        metric=METRICS[entry.metric],
        install=install_line(),
        evaluate_options=_evaluate_options(record),
        certificate=worst(record.stated.certificate),
    )
    return str(card)


def time_spent(minutes: float) -> str:
    """The time of a training, as a person says it.

    Example:
        >>> time_spent(0.1), time_spent(1.2), time_spent(25.8)
        ('less than a minute', '1 minute', '26 minutes')
    """
    whole = round(minutes)
    return "less than a minute" if whole == 0 else f"{whole} minute{'s' * (whole != 1)}"


def local_address(folder: Path) -> str:
    """What code calls a model that is not on the Hub: a folder moves without a change of its card.

    Arguments:
        folder: of the model.
    """
    folder = Path(os.path.abspath(folder))  # a link keeps its own name
    zoo = registry.zoo_folder()
    in_zoo = zoo.is_dir() and folder.parent.samefile(zoo)
    return folder.name if in_zoo else f"./{folder.name}"


def checked_words(record: Record) -> None:
    """Refuse a recipe without the texts that a card needs.

    Raises:
        ModelError: naming what is missing.
    """
    needed = ("summary", "data_name", "data_license")
    missing = [f"card.{name}" for name in needed if not getattr(record.recipe.card, name)]
    if missing:
        raise ModelError(
            f"{record.folder.path / RECIPE}: {', '.join(missing)} missing: write these texts into "
            "the recipe, under `card`"
        )


def _metadata(name: str, recipe: Recipe, entry: Entry, *, image: bool) -> ModelCardData:
    words = recipe.card
    given = recipe.config.context_features is not None
    fitting = {(True, False): "unconditional-image-generation", (False, True): "tabular-regression"}
    results = EvalResult(
        task_type="density-estimation",
        dataset_type=words.dataset_id or words.data_name,
        dataset_name=words.data_name,
        dataset_split=recipe.data.test,
        metric_type=entry.metric,
        metric_value=entry.value,
        metric_args={
            key: value
            for key in ("stderr", "groups", "estimator_stderr", "n", "seed")
            if (value := getattr(entry, key)) is not None
        },
    )
    return ModelCardData(
        license=words.license or None,
        library_name="impflow_zoo",
        pipeline_tag=fitting.get((image, given)),
        tags=["normalizing-flow", "density-estimation", recipe.model.lower()],
        datasets=[words.dataset_id] if words.dataset_id else None,
        model_name=name,
        metrics=[entry.metric],
        eval_results=[results],
    )
