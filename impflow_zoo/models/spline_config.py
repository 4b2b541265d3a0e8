"""What a spline flow is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from impflow_zoo.models.fields import (
    convert_fields,
    require,
    require_choice,
    require_columns,
)

__all__ = ["SplineConfig"]

_LAYERS = ("coupling", "autoregressive")
_LARGEST_TAIL_BOUND = 16  # nflows finds the bin of the bound itself by adding 1e-6 to it


@dataclass(frozen=True)
class SplineConfig:
    """A flow on vectors: standardisation, then layers of rational-quadratic splines.

    References:
        Neural Spline Flows (Durkan et al., 2019)
        https://arxiv.org/abs/1906.04032

    Arguments:
        features: number of columns.
        layers: `"coupling"` transforms half of the columns given the other half,
            `"autoregressive"` each column given those before it: slower to sample from, stronger.
        blocks: number of layers, each after a permutation of the columns.
        hidden_features: width of the residual net that gives a layer its splines.
        bins: pieces of a spline.
        tail_bound: splines act on `[-tail_bound, tail_bound]`, in standard deviations if nothing
            comes before them, and are the identity beyond.
        dropout: part of the hidden units that training leaves out.
        actnorm: put an `ActNorm` between layers.
        whiten: put a `Whitening` before the first layer.
        context_features: size of a context row, or None for an unconditional density.
        columns, rounding, metric, seed: as in `TabularConfig`.
    """

    kind: ClassVar[str] = "spline"

    features: int
    layers: str = "coupling"
    blocks: int = 6
    hidden_features: int = 64
    bins: int = 8
    tail_bound: float = 5.0
    dropout: float = 0.0
    actnorm: bool = False
    whiten: bool = False
    context_features: int | None = None
    columns: tuple[str, ...] = ()
    rounding: tuple[float, ...] = ()
    metric: str = "log_likelihood"
    seed: int = 0

    def __post_init__(self) -> None:
        convert_fields(self)
        require_choice("layers", self.layers, _LAYERS)
        least = 2 if self.layers == "coupling" else 1
        require(self.features >= least, "features", self.features, f"at least {least}")
        require(self.blocks >= 1, "blocks", self.blocks, "at least 1")
        width = self.hidden_features
        require(width >= 1, "hidden_features", width, "at least 1")
        require(2 <= self.bins <= 500, "bins", self.bins, "between 2 and 500")
        bound = self.tail_bound
        largest = _LARGEST_TAIL_BOUND
        require(0 < bound <= largest, "tail_bound", bound, f"a positive number up to {largest}")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "between 0 and 1")
        context = self.context_features
        require(context is None or context >= 1, "context_features", context, "at least 1")
        require_columns(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row as the user has it."""
        return (self.features,)

    @property
    def least_size(self) -> int:
        """How many numbers the weights hold at least."""
        width = self.hidden_features
        outputs = self.features // 2 if self.layers == "coupling" else self.features
        layer = 4 * width**2 + width * outputs * (3 * self.bins - 1)
        return self.blocks * layer + (self.features**2 if self.whiten else 0)
