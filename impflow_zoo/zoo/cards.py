"""Model cards, rendered from templates and the files of models' folders.

Beside a model's own number stand those of other models on the same rows, looked up in their
folders, and figures that no model of the zoo has, from `figures.yaml` beside the folders.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from impflow_zoo.evaluation.entries import Entry
from impflow_zoo.evaluation.predictive import Predictive
from impflow_zoo.lipschitz.certify import worst
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.fields import ConfigError, ModelError, convert
from impflow_zoo.models.folder import GOLDEN, RECIPE, RESULTS, TEST_ROWS, TRAINING, read_safetensors
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.reading import read_yaml
from impflow_zoo.models.texts import in_markdown
from impflow_zoo.training.recipe import Recipe
from impflow_zoo.zoo.record import Record, records

__all__ = ["FIGURES", "Beside", "figures", "pending_card", "readable", "siblings", "trained_card"]

FIGURES = "figures.yaml"
_FAMILIES = {"implicit": "ImpFlow", "residual": "ResFlow", "monotone": "MonotoneFlow"}
_FAMILIES |= dict.fromkeys(("spline-autoregressive", "spline-coupling"), "SplineFlow")
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
    """What `figures.yaml` in a folder holds of a data set, by the name of the data.

    Raises:
        ConfigError: if it cannot be read.
    """
    path = zoo / FIGURES
    if not path.is_file():
        return ()
    try:
        known = read_yaml(path, FIGURES) or {}
        return tuple(convert(known.get(data, ()), tuple[Beside, ...], data))
    except (ConfigError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def siblings(record: Record, others: Iterable[Record]) -> Iterator[Beside]:
    """Other models with weights, scored on the same rows; one that cannot be read is left out."""
    for other in others:
        score = other.entry
        if other.name == record.name or score is None or _rows(other) != _rows(record):
            continue
        if readable(other):
            yield Beside(
                f"{other.name}, {_compared(other, record)}",
                f"{score.value:.3f}",
                f"{score.stderr:.3f}",
                f"`impflow-zoo evaluate {other.name}{_evaluate_options(other)}`",
            )


def readable(other: Record) -> bool:
    """Whether the files behind another model's figures can be read; warns if not."""
    try:
        _ = other.entries, other.facts, other.recipe, other.parameters
    except (ModelError, OSError) as error:
        warnings.warn(f"{other.name} cannot be read ({error}): left out of cards", stacklevel=3)
        return False
    return True


def _rows(record: Record) -> tuple[str, str, str] | None:
    entry = record.entry
    return (entry.data, entry.split, entry.metric) if entry else None


def _predictions(record: Record, others: Iterable[Record]) -> Iterator[tuple[str, Predictive]]:
    """How well a conditional model and its siblings predict each column."""
    rows = _rows(record)
    siblings = (other for other in others if other.name != record.name and _rows(other) == rows)
    for one in (record, *siblings):
        for column in one.entry.predictive if one.entry else ():
            yield one.name, column


def _example(record: Record) -> tuple[float, ...]:
    """A context of the golden batch, for the lines of code on a card; none if there is none."""
    if record.stated.config.context_features is None:
        return ()
    golden = read_safetensors(record.folder.path / GOLDEN)
    return tuple(float(f"{value:.3g}") for value in golden["context"][0].tolist())


def _given(record: Record, example: Sequence[float]) -> str:
    """What `--given` takes: an example, or a file if a name needs quotes in a shell."""
    names = getattr(record.stated.config, "context_columns", ())
    if not all(re.fullmatch(r"[\w.-]+", name) for name in names):
        return "FILE"
    return ",".join(f"{name}={value:g}" for name, value in zip(names, example, strict=False))


def _compared(other: Record, own: Record) -> str:
    """Size and rows seen of a model, in words, beside those of another one."""
    rows, own_rows = (record.facts.rows_seen if record.facts else 0 for record in (other, own))
    same_size = abs(other.parameters - own.parameters) <= _SAME * own.parameters
    if same_size and rows == own_rows:
        return "same size and rows seen"
    seen = "same rows seen" if rows == own_rows else f"{rows:,} rows seen"
    return f"{'same size' if same_size else f'{other.parameters:,} parameters'}, {seen}"


def _evaluate_options(record: Record) -> str:
    """Options that `evaluate` needs where neither the folder nor the recipe has the rows."""
    data = record.recipe.data
    if data.dataset is not None or record.folder.has(TEST_ROWS):
        return ""
    return f" --dataset FOLDER --split {data.test}"


def trained_card(
    record: Record, zoo: Path, others: Sequence[Record] | None = None, *, address: str = ""
) -> str:
    """The card of a model with weights, from the files in its folder and in those beside it.

    Arguments:
        record: of the model.
        zoo: where other models and their figures lie.
        others: records of these models, if they are known already.
        address: the Hub id that the card names; by default it names the model of the package.

    Raises:
        ModelError: if a file or words are missing or damaged.
    """
    entry, others = record.entry, records(zoo) if others is None else others
    if entry is None or record.facts is None:
        missing = RESULTS if entry is None else TRAINING
        raise ModelError(f"{record.folder.name} has no {missing}: stage the model")
    return _rendered(
        "card.md.jinja",
        record,
        address=address or record.name,
        entry=entry,
        facts=record.facts,
        config=record.stated.config,
        beside=[*figures(zoo, record.recipe.card.data_name), *siblings(record, others)],
        predictions=list(_predictions(record, others)),
        example=_example(record),
        given=_given(record, _example(record)),
        image=isinstance(record.stated.config, ImageConfig),
        metric=METRICS[entry.metric],
        evaluate_options=_evaluate_options(record),
        certificate=worst(record.stated.certificate),
    )


def pending_card(record: Record, zoo: Path) -> str:
    """The card of a model without weights."""
    beside = figures(zoo, record.recipe.card.data_name)
    return _rendered("pending.md.jinja", record, beside=beside)


def _rendered(template: str, record: Record, **texts: Any) -> str:
    recipe = record.recipe
    needed = ("summary", "data_name", "data_license")
    missing = [f"card.{name}" for name in needed if not getattr(recipe.card, name)]
    if missing:
        raise ModelError(
            f"{record.folder.path / RECIPE}: {', '.join(missing)} missing, for the card"
        )
    blocks = getattr(recipe.config, "blocks", ())
    kinds = blocks if isinstance(blocks, tuple) else ()
    models = dict.fromkeys([_FAMILIES.get(kind, recipe.model) for kind in kinds] or [recipe.model])
    citation = "\n\n".join(model_class(name).citation for name in models)
    card = ModelCard.from_template(
        _metadata(record.name, recipe, texts.get("entry"), image=texts.get("image", False)),
        template_str=resources.files("impflow_zoo.zoo")
        .joinpath("templates", template)
        .read_text(encoding="utf-8"),
        name=record.name,
        record=record,
        recipe=recipe,
        words=recipe.card,
        in_markdown=in_markdown,
        train_options=" --data FOLDER" if recipe.data.dataset is None else "",
        citation=citation,
        papers=re.findall(r"\btitle=\{(.+?)\}.*?\burl=\{(.+?)\}", citation, re.DOTALL),
        **texts,
    )
    return str(card)


def _metadata(name: str, recipe: Recipe, entry: Entry | None, *, image: bool) -> ModelCardData:
    words = recipe.card
    given = recipe.config.context_features is not None
    fitting = {(True, False): "unconditional-image-generation", (False, True): "tabular-regression"}
    results = entry and EvalResult(
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
        license="mit",
        library_name="impflow_zoo",
        pipeline_tag=fitting.get((image, given)),
        tags=["normalizing-flow", "density-estimation", recipe.model.lower()],
        datasets=[words.dataset_id] if words.dataset_id else None,
        model_name=name,
        metrics=[entry.metric] if entry else None,
        eval_results=[results] if results else None,
    )
