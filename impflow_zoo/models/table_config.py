"""What models of tables are made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from impflow_zoo.lipschitz.activations import ACTIVATIONS, slopes
from impflow_zoo.lipschitz.perceptron import is_frequency
from impflow_zoo.lipschitz.sandwich import SANDWICH_ACTIVATIONS
from impflow_zoo.models.fields import (
    ConfigError,
    convert_fields,
    require,
    require_choice,
    require_pairs,
    require_sizes,
)
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solver import Solver

__all__ = ["TableConfig", "TabularConfig"]


@dataclass(frozen=True)
class TableConfig:
    """What every flow on vectors is given: standardisation comes first, then its blocks.

    Arguments:
        features: number of columns.
        blocks: number of blocks.
        context_features: size of a context row, or None for an unconditional density.
        actnorm: put an `ActNorm` between blocks.
        whiten: put a `Whitening` before the first block.
        columns: names of the columns, in order; empty if they have none.
        rounding: for every column the step its values are rounded to, in the data's own units,
            0 where they are not; empty means nowhere. Uniform noise of one step is added before
            training and scoring.
        metric: `"log_likelihood"` (nats per row) or `"bits"` (`-log2 p` per row).
        seed: seed of the probes and of the noise in evaluation.
    """

    features: int
    blocks: int = 5
    context_features: int | None = None
    actnorm: bool = True
    whiten: bool = False
    columns: tuple[str, ...] = ()
    rounding: tuple[float, ...] = ()
    metric: str = "log_likelihood"
    seed: int = 0

    def __post_init__(self) -> None:
        convert_fields(self)
        require_sizes(self, "features", "blocks", "context_features")
        require_choice("metric", self.metric, ("log_likelihood", "bits"))
        for name in ("columns", "rounding"):
            value = getattr(self, name)
            expected = f"one entry for {self.features} columns"
            require(len(value) in (0, self.features), name, value, expected)
        require(len(set(self.columns)) == len(self.columns), "columns", self.columns, "each once")
        steps = all(0 <= step < math.inf for step in self.rounding)
        require(steps, "rounding", self.rounding, "steps of at least 0")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row as the user has it."""
        return (self.features,)

    @property
    def least_size(self) -> int:
        """How many numbers the weights hold at least."""
        return self.features**2 if self.whiten else 0


@dataclass(frozen=True)
class TabularConfig(TableConfig):
    """A flow on vectors whose blocks are made of Lipschitz perceptrons.

    Arguments:
        features, blocks, context_features, actnorm, whiten: as in `TableConfig`.
        columns, rounding, metric, seed: as in `TableConfig`.
        hidden_features: sizes of the hidden layers of every net.
        net: `"sandwich"`, nets are a `SandwichMLP`, or `"spectral"`, they are a `LipschitzMLP`.
        activation: activation of every net, see these classes; None is `"halfsin"` for sandwich
            nets, `"sin"` for spectral ones.
        frequency: where the learned frequencies of the neurons start, see these classes; None is 1
            for sandwich nets, and learns none in spectral ones.
        lipschitz: bound of every net's Lipschitz constant, below 1.
        logdet: how log-determinants are computed.
        solver: how roots are found.
    """

    kind: ClassVar[str] = "tabular"
    activations: ClassVar[Mapping[str, type[nn.Module]]] = ACTIVATIONS

    hidden_features: tuple[int, ...] = (128, 128)
    net: str = "sandwich"
    activation: str | None = None
    frequency: float | None = None
    lipschitz: float = 0.99
    logdet: LogDet = field(default_factory=LogDet)
    solver: Solver = field(default_factory=Solver)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "hidden_features")
        require_choice("net", self.net, ("sandwich", "spectral"))
        sandwich = self.net == "sandwich"
        if self.activation is None:
            object.__setattr__(self, "activation", "halfsin" if sandwich else "sin")
        activation = self.activation
        assert activation is not None
        choices = SANDWICH_ACTIVATIONS if sandwich else self.activations
        if activation in self.activations and activation not in choices:
            raise ConfigError(
                f"activation={activation!r} needs net='spectral': sandwich nets take "
                f"{', '.join(choices)}"
            )
        require_choice("activation", activation, choices)
        require_pairs(self, "hidden_features", self.hidden_features)
        if self.frequency is not None:
            expected = "a number from 0.001 to 1000"
            require(is_frequency(self.frequency), "frequency", self.frequency, expected)
            elementwise = slopes(self.activations[activation]()) is not None
            require(
                elementwise, "frequency", self.frequency, f"null with activation {activation!r}"
            )
        require(0 < self.lipschitz < 1, "lipschitz", self.lipschitz, "between 0 and 1")

    @property
    def least_size(self) -> int:
        """How many numbers the weights hold at least; more if a block has more than one net."""
        sizes = (self.features, *self.hidden_features, self.features)
        context = (self.context_features or 0) * sum(self.hidden_features)
        square = self.net == "sandwich"
        layers = sum((m + square * n) * n for m, n in itertools.pairwise(sizes))
        return self.blocks * (context + layers) + super().least_size
