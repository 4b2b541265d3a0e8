"""The settings of columns, and the preprocessing that a model of a table starts with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from nflows.transforms import Transform
from torch import nn

from impflow_zoo.models.fields import (
    ConfigError,
    convert_fields,
    require,
    require_choice,
    require_sizes,
)
from impflow_zoo.transforms.context import StandardisedContext
from impflow_zoo.transforms.interval import Interval
from impflow_zoo.transforms.standardise import Standardise
from impflow_zoo.transforms.torus import Angles, CircleToLine, OnColumns
from impflow_zoo.transforms.whole import WholeTransform

__all__ = ["ColumnsConfig", "angles_of", "on_plain", "table_transform"]

_MOST_COLUMNS = 50_000


@dataclass(frozen=True)
class ColumnsConfig:
    """The columns whose density is modelled, and the context columns.

    Arguments:
        features: number of columns.
        context_features: size of a context row, or None for an unconditional density; follows
            from `context_columns` if these are named.
        columns: names of the columns, in order; empty if they have none.
        context_columns: names of the context columns, in order. Contexts are in the data's own
            units; the model standardises them.
        rounding: rounding step of every column in the data's own units, 0 for a column that is
            not rounded; empty if none is. Uniform noise of one step is added before training and
            scoring. Steps of the context columns may follow, but have no effect.
        bounds: lowest and highest value by name of a column, None for an open end. The density is
            zero outside, and rows outside are refused.
        metric: `"log_likelihood"` (nats per row) or `"bits"` (`-log2 p` per row).
        seed: seed of the probes and of the noise in evaluation.
    """

    kind: ClassVar[str]

    features: int
    context_features: int | None = None
    columns: tuple[str, ...] = ()
    context_columns: tuple[str, ...] = ()
    rounding: tuple[float, ...] = ()
    bounds: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    metric: str = "log_likelihood"
    seed: int = 0

    def __post_init__(self) -> None:
        convert_fields(self)
        if self.context_columns and self.context_features is None:
            object.__setattr__(self, "context_features", len(self.context_columns))
        require_sizes(self, "features", "context_features", most=_MOST_COLUMNS)
        require_choice("metric", self.metric, ("log_likelihood", "bits"))
        given = self.context_features or 0
        self._require_length("columns", self.features)
        self._require_length("context_columns", given)
        if self.context_columns and not self.columns:
            raise ConfigError("context_columns are named: columns must be named too")
        names = (*self.columns, *self.context_columns)
        require(len(set(names)) == len(names), "columns", names, "each once")
        if len(self.rounding) != self.features + given:
            self._require_length("rounding", self.features)
        steps = all(0 <= step < math.inf for step in self.rounding)
        require(steps, "rounding", self.rounding, "steps of at least 0")

        known = set(self.columns)
        for name, ends in self.bounds.items():
            require(name in known, "bounds", name, "names of columns")
            require(len(ends) == 2, f"bounds.{name}", ends, "[low, high]")
            low, high = self.bounds_of(name)
            wide = low < high and (low, high) != (-math.inf, math.inf)
            require(wide, f"bounds.{name}", ends, "a low end below a high one, null where open")
            far = max(abs(low), abs(high))
            if far < math.inf and high - low < 1e-5 * far:  # some 100 numbers of float32
                raise ConfigError(
                    f"bounds.{name}={ends}: too close for float32, subtract an offset"
                )

    def bounds_of(self, column: str) -> tuple[float, float]:
        """Lowest and highest value of a column, infinite where it is open."""
        low, high = self.bounds.get(column, (None, None))
        return (-math.inf if low is None else low, math.inf if high is None else high)

    def _require_length(self, name: str, size: int) -> None:
        value = getattr(self, name)
        require(len(value) in (0, size), name, value, f"one entry for {size} columns")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row as the user has it."""
        return (self.features,)


def table_transform(config: ColumnsConfig, steps: Iterable[Transform]) -> WholeTransform:
    """The transform of rows in the data's own units, `[B, D]`, to noise, `[B, D]`.

    Arguments:
        config: the columns.
        steps: transforms of standardised rows to noise; their contexts are standardised, too.
    """
    parts: list[Transform] = [Standardise(config.features), *steps]
    if angles := angles_of(config):
        periods = getattr(config, "periodic", {})
        parts.insert(0, Angles([periods.get(name, 0.0) for name in config.columns]))
        parts.append(OnColumns(CircleToLine(), angles))
    if config.bounds:
        low, high = zip(*map(config.bounds_of, config.columns), strict=True)
        parts.insert(0, Interval(low, high))
    if config.context_features is None:
        return WholeTransform(parts, config.shape)
    sizes = (config.context_features, *getattr(config, "embedding_net", ()))
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(sizes):
        layers += [nn.Linear(n, m), nn.SiLU()]
    net = nn.Sequential(*layers[:-1]) if layers else None
    return StandardisedContext(parts, config.shape, config.context_features, net)


def angles_of(config: ColumnsConfig) -> list[int]:
    """Numbers of the columns that have a period."""
    periods = getattr(config, "periodic", {})
    numbers = {name: i for i, name in enumerate(config.columns)} if periods else {}
    return [numbers[name] for name in periods]


def on_plain(config: ColumnsConfig, make: Callable[[int], Transform]) -> list[Transform]:
    """A transform of the columns that are no angles; angles keep their scale. None if all are."""
    angles = set(angles_of(config))
    if not angles:
        return [make(config.features)]
    plain = [i for i in range(config.features) if i not in angles]
    return [OnColumns(make(len(plain)), plain)] if plain else []
