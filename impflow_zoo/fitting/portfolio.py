"""What `fit` tries: models with the settings of their training, the most promising first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from impflow_zoo.fitting.columns import Findings
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.fields import ConfigError
from impflow_zoo.models.spline_config import SplineConfig
from impflow_zoo.models.yardsticks import MixtureDensityNetwork

__all__ = [
    "FINE",
    "PORTFOLIO",
    "VALIDATED",
    "Candidate",
    "batch_size",
    "candidates",
    "heavier",
    "lighter",
    "own_candidate",
    "training_settings",
    "variants",
]

VALIDATED = 2000  # rows of a validation, at most
_BATCH, _LEAST_BATCH = 256, 32


@dataclass(frozen=True)
class Candidate:
    """A model with the settings of its training.

    Arguments:
        name: its name in tables and folders.
        model: class of the model.
        config: its config but for the columns.
        training: settings that differ from those of all.
        kind: whose cost its steps have, see `impflow_zoo.fitting.budget`.
        least: number of columns that it needs.
    """

    name: str
    model: str
    config: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    least: int = 1

    @property
    def takes_angles(self) -> bool:
        """Whether columns may be periodic: not for splines."""
        return self.config["kind"] == "tabular" and isinstance(self.config.get("blocks", 5), int)

    def full_config(self, findings: Findings) -> dict[str, Any]:
        """The config for the columns that were found."""
        config = {"kind": self.config["kind"], **findings.config()}
        return config | {k: v for k, v in self.config.items() if k != "kind"}


_TABULAR = {"kind": "tabular", "whiten": True}
_SANDWICH = {"net": "sandwich"}
_SPLINE = {"kind": "spline", "whiten": True, "hidden_features": 128, "dropout": 0.1}
_MIXED = ["implicit", "implicit", "implicit", "spline-autoregressive"]


def _decay(value: float, rate: float = 1e-2) -> dict[str, Any]:
    return {"weight_decay": value, "learning_rate": rate}


PORTFOLIO = (
    Candidate("implicit-sines", "ImpFlow", _TABULAR, _decay(1.0), "implicit"),
    Candidate(
        "implicit-sandwich", "ImpFlow", {**_TABULAR, **_SANDWICH}, _decay(2.0), "implicit-sandwich"
    ),
    Candidate(
        "spline-autoregressive",
        "SplineFlow",
        {**_SPLINE, "layers": "autoregressive"},
        _decay(1.0, 5e-3),
        "spline-autoregressive",
    ),
    Candidate(
        "implicit-spline",
        "ImpFlow",
        {**_TABULAR, **_SANDWICH, "blocks": _MIXED},
        _decay(1.0),
        "implicit-spline",
    ),
    Candidate(
        "residual", "ResFlow", {**_TABULAR, **_SANDWICH, "blocks": 8}, _decay(0.5), "residual"
    ),
    Candidate(
        "spline-coupling",
        "SplineFlow",
        {**_SPLINE, "layers": "coupling"},
        _decay(1.0, 5e-3),
        "spline-coupling",
        least=2,
    ),
)


# Whitening mixes columns. Where their values are few, the density of each column alone has peaks,
# which splines of many bins follow: on diamonds (benchmarks/notebook/small-tables.md) they are 1.5
# nats ahead of implicit blocks. On weather they are 0.1 behind, so both are tried.
FINE = Candidate(
    "spline-24-bins",
    "SplineFlow",
    {"kind": "spline", "blocks": 3, "hidden_features": 128, "layers": "autoregressive", "bins": 24},
    _decay(1.0, 2e-2),
    "spline-24-bins",
)


def own_candidate(model: str | None, config: Mapping[str, Any] | None, columns: int) -> Candidate:
    """What users choose instead of a search.

    Arguments:
        model: name of a class of models or of an entry of the portfolio; None takes the class of
            the first entry.
        config: settings of the config but for the columns.
        columns: their number. Splines of a single one are autoregressive: a coupling needs two.

    Raises:
        ConfigError: if there is no such model, or a setting is unknown.
    """
    known = {one.name: one for one in (*PORTFOLIO, FINE)}
    if model in known:
        return replace(known[model], config={**known[model].config, **(config or {})})
    try:
        cls = model_class(PORTFOLIO[0].model if model is None else model)
    except ConfigError as error:
        raise ConfigError(f"{error}; or a candidate: {', '.join(known)}") from None
    name, settings = cls.__name__, {"kind": cls.config_types[0].kind, **(config or {})}
    if settings["kind"] == SplineConfig.kind and columns == 1:
        settings = {"layers": "autoregressive", **settings}
    blocks = cls.block_kinds or ("spline-coupling",)  # what other classes cost is near to it
    asked = f"spline-{settings.get('layers')}"
    kind = asked if asked in blocks else blocks[0]
    decay = 0.1 if issubclass(cls, MixtureDensityNetwork) else 1.0  # Lipschitz nets need more
    return Candidate(name, name, settings, _decay(decay), kind)


_EMBEDDING = [64, 64]  # layers of the net that sees a context before the blocks


def candidates(findings: Findings) -> list[Candidate]:
    """The candidates for the columns that were found, in order."""
    found = [one for one in PORTFOLIO if len(findings.columns) >= one.least]
    if findings.rounding:
        found.insert(1, FINE)
    if "periodic" in findings.stated:
        found = [one for one in found if one.takes_angles]
    if findings.given:
        found = [
            replace(one, config={**one.config, "embedding_net": _EMBEDDING})
            if one.config["kind"] == "tabular"
            else one
            for one in found
        ]
    return found


def variants(leader: Candidate) -> list[Candidate]:
    """The leading candidate with radial layers, and without whitening, or with it."""
    radial = {**leader.config, "radial": True}
    white = not leader.config.get("whiten", False)
    other = {**leader.config, "whiten": white}
    return [
        replace(leader, name=f"{leader.name}-radial", config=radial),
        replace(leader, name=f"{leader.name}-{'' if white else 'un'}whitened", config=other),
    ]


def lighter(leader: Candidate) -> Candidate:
    """The candidate with a tenth of its weight decay."""
    return _decayed(leader, "lighter", 0.1)


def heavier(leader: Candidate) -> Candidate:
    """The candidate with three times its weight decay."""
    return _decayed(leader, "heavier", 3.0)


def _decayed(leader: Candidate, suffix: str, factor: float) -> Candidate:
    training = {**leader.training, "weight_decay": factor * leader.training["weight_decay"]}
    return replace(leader, name=f"{leader.name}-{suffix}", training=training)


def training_settings(
    candidate: Candidate,
    steps: int,
    rows: int,
    *,
    seed: int,
    validations: int,
    patience: int | None,
) -> dict[str, Any]:
    """The section `training` of a recipe.

    Arguments:
        candidate: what is trained.
        steps: of the schedule: a warm-up, then a cosine to zero.
        rows: number of training rows.
        seed: of the run.
        validations: how many there are, at most.
        patience: validations without a gain that end the run.
    """
    validate_every = math.ceil(steps / validations)
    return {
        "optimizer": "muon",
        "steps": steps,
        "batch_size": batch_size(rows),
        "warmup_steps": min(100, math.ceil(steps / 10)),
        "ema_decay": 0.995,
        "validate_every": validate_every,
        "validation_limit": VALIDATED,
        "patience": patience,
        "log_every": min(50, validate_every),  # each validation has a training value beside it
        "seed": seed,
        **candidate.training,
    }


def batch_size(rows: int) -> int:
    """Rows of a step: a pass over a small table takes several."""
    return max(_LEAST_BATCH, min(_BATCH, rows // 8))
