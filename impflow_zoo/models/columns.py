"""The settings of columns, and which of them are angles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from nflows.transforms import Transform

from impflow_zoo.models.fields import (
    ConfigError,
    convert_fields,
    require,
    require_choice,
    require_names,
    require_sizes,
)
from impflow_zoo.models.model_config import ModelConfig
from impflow_zoo.transforms.torus import OnColumns

__all__ = ["ColumnsConfig", "angles_of", "on_plain"]

_MOST_COLUMNS = 50_000


@dataclass(frozen=True)
class ColumnsConfig(ModelConfig):
    """The columns whose density is modelled, and the context columns.

    Arguments:
        features: number of columns.
        context_features: size of a context row, or None for an unconditional density; follows
            from `context_columns` if these are named.
        columns: names of the columns, in order; empty if they have none.
        context_columns: names of the context columns, in order. Contexts are in the data's own
            units; the model standardises them.
        rounding: rounding steps in the data's own units: by name of a column, or one for every
            column, 0 where it is not rounded. Empty if none is rounded. The config keeps the
            second form. Uniform noise of one step is added before training and scoring. Steps of
            the context columns may follow, but have no effect.
        rounding_offset: where the grid of a rounded column lies, by name: 0.5 for the values 0.5,
            1.5, ... Rounded samples lie on this grid. 0 if a column is not named.
        bounds: lowest and highest value by name of a column, in the data's own units; None for an
            open end. The density is zero outside, and rows outside are refused.
        metric: `"log_likelihood"` (nats per row) or `"bits"` (`-log2 p` per row).
        seed: seed of the probes and of the noise in evaluation.

    Raises:
        ConfigError: for a setting of another type or out of its range, or for a name that is not
            one of the columns.
    """

    features: int
    context_features: int | None = None
    columns: tuple[str, ...] = ()
    context_columns: tuple[str, ...] = ()
    rounding: dict[str, float] | tuple[float, ...] = ()
    rounding_offset: dict[str, float] = field(default_factory=dict)
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
        if isinstance(self.rounding, dict):
            require_names("rounding", self.rounding, names)
            least = min(self.rounding.values(), default=0.0)
            require(least >= 0, "rounding", self.rounding, "steps of at least 0")
            steps = [self.rounding.get(name, 0.0) for name in self.columns]
            object.__setattr__(self, "rounding", tuple(steps) if any(steps) else ())
        if len(self.rounding) != self.features + given:
            self._require_length("rounding", self.features)
        valid = all(0 <= step < math.inf for step in self.steps)
        require(valid, "rounding", self.rounding, "steps of at least 0")
        require_names("rounding_offset", self.rounding_offset, self.columns)
        stepped = {name for name, step in zip(self.columns, self.steps, strict=False) if step}
        for name in self.rounding_offset:
            require(name in stepped, "rounding_offset", name, "columns with a step in rounding")

        require_names("bounds", self.bounds, self.columns)
        for name, ends in self.bounds.items():
            require(len(ends) == 2, f"bounds.{name}", ends, "[low, high]")
            low, high = self.bounds_of(name)
            wide = low < high and (low, high) != (-math.inf, math.inf)
            require(wide, f"bounds.{name}", ends, "a low end below a high one, null where open")
            far = max(abs(low), abs(high))
            if far < math.inf and high - low < 1e-5 * far:  # some 100 numbers of float32
                raise ConfigError(
                    f"bounds.{name}={ends}: too close for float32, subtract an offset"
                )

    @property
    def steps(self) -> tuple[float, ...]:
        """The rounding step of every column, 0 for none; empty if no column has one."""
        return tuple(self.rounding)  # type: ignore[arg-type]

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


def angles_of(config: ColumnsConfig) -> list[int]:
    """Numbers of the columns that have a period."""
    periods = config.periodic
    numbers = {name: i for i, name in enumerate(config.columns)} if periods else {}
    return [numbers[name] for name in periods]


def on_plain(config: ColumnsConfig, make: Callable[[int], Transform]) -> list[Transform]:
    """A transform of the columns that are no angles; angles keep their scale. None if all are."""
    angles = set(angles_of(config))
    if not angles:
        return [make(config.features)]
    plain = [i for i in range(config.features) if i not in angles]
    return [OnColumns(make(len(plain)), plain)] if plain else []
