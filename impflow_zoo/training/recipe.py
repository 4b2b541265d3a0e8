"""Recipes: YAML files that describe a model, its training and its data."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from impflow_zoo.models.classes import model_class, model_names, require_config
from impflow_zoo.models.config import Config, parse
from impflow_zoo.models.data_settings import DataSettings
from impflow_zoo.models.fields import (
    ConfigError,
    convert,
    require,
    require_choice,
    require_sizes,
)
from impflow_zoo.models.folder import MOST_MEMBERS
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.reading import parse_yaml, read_yaml, readable

__all__ = [
    "CardSettings",
    "Recipe",
    "TrainingSettings",
    "differences",
    "fingerprint",
    "of_member",
    "read_recipe",
    "with_seed",
]

_MOST_STAGES, _MOST = 100, 10**12  # stages; steps or rows


@dataclass(frozen=True)
class TrainingSettings:
    """How the model is trained. The learning rate warms up, and weight decay is decoupled.

    Arguments:
        optimizer: `"adamw"`, with betas of 0.9 and 0.99; or `"muon"`: Muon
            (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) for matrices and for
            kernels of convolutions, as matrices `[out, in height width]`; AdamW
            for all other parameters.
        steps: optimisation steps.
        batch_size: rows per step.
        learning_rate: learning rate after the warm-up.
        final_learning_rate: learning rate of the last step, reached along a cosine; None keeps the
            rate constant.
        warmup_steps: steps over which the learning rate rises linearly from zero.
        weight_decay: decoupled decay of matrices and kernels, per unit of learning rate.
        flip: mirror each image with probability 1/2.
        clip_norm: gradients are clipped to this norm.
        ema_decay: decay of the moving average of the weights, which are kept; smaller at first.
        validate_every: steps between validations.
        validation_limit: largest number of rows in a validation; None takes all.
        patience: stop after this many validations without a better value; None never stops.
        log_every: steps between lines of the log.
        checkpoint_minutes: minutes between checkpoints; 0 writes one after every step.
        seed: seed of weights, batches, noise and probes.
    """

    optimizer: str = "adamw"
    steps: int = 10_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    final_learning_rate: float | None = 0.0
    warmup_steps: int = 100
    weight_decay: float = 0.0
    flip: bool = False
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    validate_every: int = 500
    validation_limit: int | None = None
    patience: int | None = None
    log_every: int = 50
    checkpoint_minutes: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("optimizer", self.optimizer, ("adamw", "muon"))
        require_sizes(self, "batch_size")
        require_sizes(self, "steps", "validate_every", "log_every", most=_MOST)
        require_sizes(self, "validation_limit", "patience", most=_MOST)
        for name in ("warmup_steps", "weight_decay", "checkpoint_minutes", "final_learning_rate"):
            value = getattr(self, name)
            require(value is None or value >= 0, name, value, "at least 0")
        require(0 <= self.seed < 2**63, "seed", self.seed, "between 0 and 2^63 - 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(self.clip_norm > 0, "clip_norm", self.clip_norm, "a positive number")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "between 0 and 1")


@dataclass(frozen=True)
class CardSettings:
    """The texts of the card.

    Arguments:
        summary: what the model is, in a sentence or two.
        license: licence of the weights, by its id on the Hub, such as `"cc-by-4.0"`; if it is empty
            the card names none.
        data_name, data_url, data_license, data_citation: facts about the data.
        dataset_id: id of the data on the Hub, for the card's metadata.
        limits: what the model is not good for.
    """

    summary: str = ""
    license: str = ""
    data_name: str = ""
    data_url: str = ""
    data_license: str = ""
    data_citation: str = ""
    dataset_id: str | None = None
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = re.fullmatch(r"[a-z0-9.-]*", self.license) is not None
        expected = "the Hub's id of a licence, such as mit or cc-by-4.0,"
        require(known, "card.license", self.license, expected)


@dataclass(frozen=True)
class Recipe:
    """A model, its data, its training, and texts for its card.

    Arguments:
        stages: settings of each stage, if training has several. Each starts from the weights that
            the previous stage kept. In the file a stage lists its differences from `training`; its
            seed is the seed of `training` plus its number, counted from 0.
        ensemble: number of trainings with seeds that follow each other; the model is the mixture of
            what they find. For tables.
    """

    model: str
    config: Config
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    card: CardSettings = field(default_factory=CardSettings)
    stages: tuple[TrainingSettings, ...] = ()
    ensemble: int = 1

    def __post_init__(self) -> None:
        require_config(model_class(self.model), self.config)
        image = isinstance(self.config, ImageConfig)
        if self.training.flip and not image:
            raise ConfigError("training.flip: tables cannot be mirrored, leave it out")
        if self.data.corrupt != "stop" and not image:
            raise ConfigError(
                f"data.corrupt={self.data.corrupt!r} is for images: leave it out for tables"
            )
        require(
            1 <= self.ensemble <= MOST_MEMBERS, "ensemble", self.ensemble, f"1 to {MOST_MEMBERS}"
        )
        if self.ensemble > 1 and image:
            raise ConfigError("ensemble is for tables: leave it out for images")
        if len({run.validation_limit for run in self.runs}) > 1:
            raise ConfigError(
                "stages.validation_limit: values on other rows cannot be compared; set one limit "
                "for all stages, under training"
            )
        if self.data.weights is not None and image:
            raise ConfigError("data.weights is for tables: leave it out for images")

    @property
    def runs(self) -> tuple[TrainingSettings, ...]:
        """Settings of each stage, of the only one if there are none."""
        return self.stages or (self.training,)

    def with_seed(self, seed: int) -> Recipe:
        """The recipe with another seed."""
        off = seed - self.training.seed
        return replace(
            self,
            training=replace(self.training, seed=seed),
            stages=tuple(replace(s, seed=s.seed + off) for s in self.stages),
        )


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        ConfigError: if the file is missing, is not YAML, or holds an unknown setting.
    """
    data = read_yaml(path, f"recipe {path}")
    if not isinstance(data, dict):
        raise ConfigError(f"recipe {path} holds no settings")
    try:
        for key in data:
            require_choice("recipe key", str(key), [f.name for f in fields(Recipe)])
        if "model" not in data:
            raise ConfigError(f"it names no model: choose {' or '.join(model_names())}")
        training = data.get("training", {})
        recipe = Recipe(
            model_class(data["model"]).__name__,
            parse(data.get("config")),
            convert(data.get("data", {}), DataSettings, "data"),
            convert(training, TrainingSettings, "training"),
            convert(data.get("card", {}), CardSettings, "card"),
            ensemble=convert(data.get("ensemble", 1), int, "ensemble"),
        )
        stages = _stages(data.get("stages", []), training, recipe.training.seed)
        return replace(recipe, stages=stages)
    except ConfigError as error:
        raise ConfigError(f"recipe {path}: {readable(error)}") from None


def _stages(stages: Any, training: dict[str, Any], seed: int) -> tuple[TrainingSettings, ...]:
    """The settings of stages, each of which states its differences from `training`."""
    if isinstance(stages, list):
        require(len(stages) <= _MOST_STAGES, "stages", stages, f"{_MOST_STAGES} at most")
        stages = [
            {**training, "seed": seed + i, **own} if isinstance(own, dict) else own
            for i, own in enumerate(stages)
        ]
    found: tuple[TrainingSettings, ...] = convert(stages, tuple[TrainingSettings, ...], "stages")
    return found


def differences(one: Recipe, other: Recipe, *, more_stages: bool = False) -> list[str]:
    """The settings in which two recipes train differently; seeds and card apart.

    Arguments:
        one, other: the recipes.
        more_stages: whether the other one may have stages after those of the first.
    """
    if one.model != other.model:
        return ["model"]
    if type(one.config) is not type(other.config):
        return ["config.kind"]
    if one.ensemble != other.ensemble:
        return ["ensemble"]
    runs, others = one.runs, other.runs
    if len(runs) > len(others) or (len(runs) < len(others) and not more_stages):
        return ["stages"]
    pairs: dict[str, tuple[Any, Any]] = {
        "config": (one.config, other.config),
        "data": (one.data, other.data),
    }
    for number, (a, b) in enumerate(zip(runs, others, strict=False)):
        section = f"stages[{number}]" if len(others) > 1 else "training"
        pairs[section] = (replace(a, seed=0), replace(b, seed=0))
    return [
        f"{section}.{name}"
        for section, (a, b) in pairs.items()
        for name, value in vars(a).items()
        if value != getattr(b, name)
    ]


def fingerprint(recipe: Recipe) -> str:
    """A short text that two recipes share if they train alike; seed, card and `ensemble` apart.

    Settings that have their default values do not count, as later versions may have more of them.
    """
    settings = replace(recipe.with_seed(0), card=CardSettings(), ensemble=1)
    text = json.dumps(_stated(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stated(settings: Any) -> Any:
    """The fields of nested dataclasses that differ from their defaults."""
    if isinstance(settings, tuple):
        return tuple(map(_stated, settings))
    if not is_dataclass(settings):
        return settings
    found: dict[str, Any] = {"kind": type(settings).__name__}
    for f in fields(settings):
        value = getattr(settings, f.name)
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if default is MISSING or value != default:
            found[f.name] = _stated(value)
    return found


def with_seed(text: bytes, seed: int) -> bytes:
    """The text of a recipe with another seed, without its comments."""
    return _dumped(_with_seed(text, seed))


def of_member(text: bytes, seed: int) -> bytes:
    """The text of the recipe of one model of an ensemble."""
    sections = _with_seed(text, seed)
    sections.pop("ensemble", None)
    return _dumped(sections)


def _with_seed(text: bytes, seed: int) -> dict[str, Any]:
    sections: dict[str, Any] = parse_yaml(text, "recipe")
    training = sections.get("training", {})
    if stages := sections.get("stages"):  # two of them may be one object
        off = seed - training.get("seed", 0)
        sections["stages"] = [
            {**s, **({"seed": s["seed"] + off} if "seed" in s else {})} for s in stages
        ]
    sections["training"] = {**training, "seed": seed}
    return sections


def _dumped(sections: dict[str, Any]) -> bytes:
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True).encode()
