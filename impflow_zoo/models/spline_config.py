"""What a spline flow is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from impflow_zoo.models.columns import ColumnsConfig
from impflow_zoo.models.fields import MOST_BLOCKS, require, require_choice, require_sizes

__all__ = ["SplineConfig"]


@dataclass(frozen=True)
class SplineConfig(ColumnsConfig):
    """A flow on vectors whose blocks are layers of rational-quadratic splines.

    References:
        Neural Spline Flows (Durkan et al., 2019)
        https://arxiv.org/abs/1906.04032

    Further arguments, such as `features` and `bounds`, are those of
    `impflow_zoo.models.columns.ColumnsConfig`.

    Arguments:
        actnorm, whiten, radial: as in `TabularConfig`.
        layers: `"coupling"` transforms half of the columns given the other half,
            `"autoregressive"` each column given those before it, which samples more slowly.
        blocks: number of layers, each after a permutation of the columns. Two couplings transform
            each column at least once, of an odd number of columns three.
        hidden_features: width of the residual net that computes the splines of a layer; with
            `"autoregressive"` at least the number of columns.
        bins: pieces of a spline.
        tail_bound: splines act on `[-tail_bound, tail_bound]` and are the identity outside.
        dropout: fraction of the hidden units that dropout zeroes in training.
    """

    kind: ClassVar[str] = "spline"

    blocks: int = 6
    actnorm: bool = False
    whiten: bool = False
    radial: bool = False
    layers: str = "coupling"
    hidden_features: int = 64
    bins: int = 8
    tail_bound: float = 5.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("layers", self.layers, ("coupling", "autoregressive"))
        least = 2 if self.layers == "coupling" else 1
        asked = f"at least {least} with layers: {self.layers}"
        require(self.features >= least, "features", self.features, asked)
        require_sizes(self, "blocks", most=MOST_BLOCKS)
        require_sizes(self, "hidden_features")
        require(2 <= self.bins <= 500, "bins", self.bins, "between 2 and 500")
        # nflows finds the bin of the bound itself by adding 1e-6 to it.
        bound = self.tail_bound
        require(0 < bound <= 16, "tail_bound", bound, "a positive number up to 16")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "between 0 and 1")
