"""The config of a flow on tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from impflow_zoo.lipschitz.activations import ACTIVATIONS
from impflow_zoo.lipschitz.sandwich import SANDWICH_ACTIVATIONS
from impflow_zoo.models.columns import ColumnsConfig
from impflow_zoo.models.fields import (
    ConfigError,
    require,
    require_choice,
    require_names,
    require_sizes,
    require_tolerances,
)
from impflow_zoo.models.mixed import require_blocks
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solver import Solver

__all__ = ["TabularConfig"]


@dataclass(frozen=True)
class TabularConfig(ColumnsConfig):
    """A flow on vectors whose blocks are made of Lipschitz perceptrons.

    Further arguments, such as `features` and `bounds`, are those of
    `impflow_zoo.models.columns.ColumnsConfig`.

    Arguments:
        blocks: number of blocks of the model's own kind; or their names, in order from data to
            noise: `implicit`, `residual`, `monotone`, `spline-coupling`, `spline-autoregressive`,
            `radial`, or a name registered by `register_block`.
        actnorm: put an `ActNorm` between blocks.
        whiten: put a `Whitening` before the first block.
        radial: put a `RadialTransform` before every block and behind the last one: for patches,
            coefficients and other data whose length varies by orders of magnitude.
        hidden_features: sizes of the hidden layers of every net.
        net: `"spectral"` for `LipschitzMLP`, or `"sandwich"` for `SandwichMLP`.
        activation: activation of every net, see these classes; None is `"halfsin"` for sandwich
            nets, `"sin"` for spectral ones.
        frequency: initial value of the learned frequencies of the neurons, see these classes; None
            is no learned frequencies for spectral nets and 1 for sandwich nets.
        lipschitz: bound on every net's Lipschitz constant, below 1.
        logdet: how log-determinants are computed.
        solver: how roots are found.
        embedding_net: layer sizes of an unconstrained perceptron that maps the standardised
            context before the blocks see it; empty for none.
        periodic: periods of columns that are angles, by name: the density has this period, and
            samples lie between 0 and the period. Or both ends of a turn, such as `[-180, 180]`.
    """

    kind: ClassVar[str] = "tabular"

    blocks: int | tuple[str, ...] = 5
    actnorm: bool = True
    whiten: bool = False
    radial: bool = False
    hidden_features: tuple[int, ...] = (128, 128)
    net: str = "spectral"
    activation: str | None = None
    frequency: float | None = 1.0
    lipschitz: float = 0.99
    logdet: LogDet = field(default_factory=LogDet)
    solver: Solver = field(default_factory=Solver)
    embedding_net: tuple[int, ...] = ()
    periodic: dict[str, float | tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_blocks(self.blocks, angles=bool(self.periodic))
        require_sizes(self, "hidden_features", "embedding_net")
        seen = bool(self.hidden_features) or self.context_features is None
        require(seen, "hidden_features", (), "a hidden layer, which sees the context,")
        if self.embedding_net and self.context_features is None:
            raise ConfigError("embedding_net needs context_columns, or context_features")
        require_choice("net", self.net, ("sandwich", "spectral"))
        sandwich = self.net == "sandwich"
        if self.activation is None:
            object.__setattr__(self, "activation", "halfsin" if sandwich else "sin")
        activation = self.activation
        assert activation is not None
        choices = SANDWICH_ACTIVATIONS if sandwich else ACTIVATIONS
        if activation in ACTIVATIONS and activation not in choices:
            raise ConfigError(
                f"activation={activation!r} needs net='spectral': sandwich nets take "
                f"{', '.join(choices)}"
            )
        require_choice("activation", activation, choices)
        require_tolerances(self.solver)
        require(0 < self.lipschitz < 1, "lipschitz", self.lipschitz, "between 0 and 1")
        require_names("periodic", self.periodic, self.columns)
        unbounded = set(self.columns) - set(self.bounds)
        for name, ends in self.turns.items():
            require(name in unbounded, "periodic", name, "names of columns without bounds")
            valid = len(ends) == 2 and 0 < ends[1] - ends[0] < math.inf
            stated = self.periodic[name]
            require(valid, f"periodic.{name}", stated, "a positive number, or [low, high]")

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the kinds of its blocks, in order, if it names them."""
        return () if isinstance(self.blocks, int) else self.blocks

    @property
    def embedded_features(self) -> int | None:
        """Size of the contexts that blocks see."""
        return self.embedding_net[-1] if self.embedding_net else self.context_features
