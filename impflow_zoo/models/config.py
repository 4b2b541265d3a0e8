"""What a model is made of, as frozen dataclasses that travel as JSON."""

from __future__ import annotations

import dataclasses
import itertools
import reprlib
from dataclasses import dataclass, field
from typing import Any, ClassVar

from impflow_zoo.lipschitz.activations import ACTIVATIONS, make_activation, slopes
from impflow_zoo.lipschitz.perceptron import is_frequency
from impflow_zoo.lipschitz.published import PUBLISHED
from impflow_zoo.lipschitz.sandwich import SANDWICH_ACTIVATIONS
from impflow_zoo.models.fields import (
    ConfigError,
    ModelError,
    convert,
    convert_fields,
    parse_dataclass,
    require,
    require_choice,
    require_columns,
    require_norm,
    require_pairs,
)
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.spline_config import SplineConfig
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solver import Solver

__all__ = [
    "CONFIGS",
    "Config",
    "ConfigError",
    "ImageConfig",
    "ModelError",
    "SplineConfig",
    "TabularConfig",
    "convert",
    "parse",
    "parse_dataclass",
    "require",
    "require_choice",
    "to_json",
]

_ACTIVATIONS = {  # of the kinds of nets: the default, and the choices
    "sandwich": ("halfsin", SANDWICH_ACTIVATIONS),
    "spectral": ("sin", (*ACTIVATIONS, *PUBLISHED)),
}


@dataclass(frozen=True)
class TabularConfig:
    """A flow on vectors: standardisation, then blocks of Lipschitz perceptrons.

    Configs that were saved without `net` are read as `net="spectral"`.

    Arguments:
        features: number of columns.
        blocks: number of implicit or residual blocks.
        hidden_features: sizes of the hidden layers of every net.
        net: `"sandwich"`, nets are a `SandwichMLP`, or `"spectral"`, they are a `LipschitzMLP`.
        activation: activation of every net, see these classes; None is `"halfsin"` for sandwich
            nets, `"sin"` for spectral ones.
        frequency: where the learned frequencies of the neurons start, see these classes; None is 1
            for sandwich nets, and learns none in spectral ones.
        lipschitz: bound of every net's Lipschitz constant, below 1.
        context_features: size of a context row, or None for an unconditional density.
        actnorm: put an `ActNorm` between blocks.
        actnorm_ends: put one before the first and after the last block as well.
        centred_actnorm: in the form `CentredActNorm`.
        whiten: put a `Whitening` before the first block.
        preactivation: every net starts with an activation; spectral nets alone, like the next two.
        norm: norms of the layers, see `LipschitzMLP`.
        stored_norms: keep power vectors as they are loaded, see `LipschitzMLP`.
        columns: names of the columns, in order; empty if they have none.
        rounding: for every column the step its values are rounded to, in the data's own units,
            0 where they are not; empty means nowhere. Uniform noise of one step is added before
            training and scoring.
        metric: `"log_likelihood"` (nats per row) or `"bits"` (`-log2 p` per row).
        logdet: how log-determinants are computed.
        solver: how roots are found.
        seed: seed of the probes and of the noise in evaluation.
    """

    kind: ClassVar[str] = "tabular"

    features: int
    blocks: int = 5
    hidden_features: tuple[int, ...] = (128, 128)
    net: str = "sandwich"
    activation: str | None = None
    frequency: float | None = None
    lipschitz: float = 0.99
    context_features: int | None = None
    actnorm: bool = True
    actnorm_ends: bool = False
    centred_actnorm: bool = False
    whiten: bool = False
    preactivation: bool = False
    norm: str = "2"
    stored_norms: bool = False
    columns: tuple[str, ...] = ()
    rounding: tuple[float, ...] = ()
    metric: str = "log_likelihood"
    logdet: LogDet = field(default_factory=LogDet)
    solver: Solver = field(default_factory=Solver)
    seed: int = 0

    def __post_init__(self) -> None:
        convert_fields(self)
        require(self.features >= 1, "features", self.features, "at least 1")
        require(self.blocks >= 1, "blocks", self.blocks, "at least 1")
        if self.context_features is not None:
            require(
                self.context_features >= 1, "context_features", self.context_features, "at least 1"
            )
        for width in self.hidden_features:
            require(width >= 1, "hidden_features", self.hidden_features, "positive sizes")
        require_choice("net", self.net, _ACTIVATIONS)
        activation, choices = _ACTIVATIONS[self.net]
        if self.activation is not None:
            activation = self.activation
            if activation in _ACTIVATIONS["spectral"][1] and activation not in choices:
                raise ConfigError(
                    f"activation={activation!r} needs net='spectral': sandwich nets take "
                    f"{', '.join(choices)}"
                )
            require_choice("activation", activation, choices)
        object.__setattr__(self, "activation", activation)
        require_pairs(activation, "hidden_features", self.hidden_features)
        if self.frequency is not None:
            expected = "a number from 0.001 to 1000"
            require(is_frequency(self.frequency), "frequency", self.frequency, expected)
            known = slopes(make_activation(activation)) is not None
            require(known, "frequency", self.frequency, f"null with activation {activation!r}")
        if self.preactivation:
            require_pairs(activation, "features", [self.features])
        require(0 < self.lipschitz < 1, "lipschitz", self.lipschitz, "between 0 and 1")
        require_norm(self.norm, len(self.hidden_features) + 1)
        self._require_spectral()
        require_columns(self)

    def _require_spectral(self) -> None:
        """Refuse, for other nets, what spectral nets alone can be given."""
        for name, plain in (("preactivation", False), ("norm", "2"), ("stored_norms", False)):
            value = getattr(self, name)
            if self.net != "spectral" and value != plain:
                raise ConfigError(f"{name}={value!r} needs net='spectral'")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row as the user has it."""
        return (self.features,)

    @property
    def least_size(self) -> int:
        """How many numbers the weights hold at least; more if a block has more than one net."""
        sizes = (self.features, *self.hidden_features, self.features)
        context = (self.context_features or 0) * sum(self.hidden_features)
        square = self.net == "sandwich"
        layers = sum((m + square * n) * n for m, n in itertools.pairwise(sizes))
        nets = self.blocks * (context + layers)
        return nets + (self.features**2 if self.whiten else 0)


Config = TabularConfig | ImageConfig | SplineConfig
CONFIGS: dict[str, type[Config]] = {}  # by kind; `register_model` adds those of its class


def to_json(config: Config) -> dict[str, Any]:
    """The config as JSON objects, its kind first."""
    return {"kind": config.kind, **dataclasses.asdict(config)}


def parse(data: Any) -> Config:
    """Build a config from JSON objects, strictly.

    Raises:
        ConfigError: if a key is unknown, missing or of the wrong type, or a value out of range.
    """
    if not isinstance(data, dict):
        found = "nothing" if data is None else reprlib.repr(data)
        raise ConfigError(f"config holds {found}: settings by name are needed")
    rest = dict(data)
    kind = rest.pop("kind", None)
    if kind is None:
        raise ConfigError(f"config key 'kind' is missing: {' or '.join(CONFIGS)}")
    if not isinstance(kind, str) or kind not in CONFIGS:
        raise ConfigError(
            f"unknown kind of model {reprlib.repr(kind)}: this version knows {', '.join(CONFIGS)}"
        )
    return parse_dataclass(CONFIGS[kind], rest, "")
