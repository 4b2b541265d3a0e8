"""The metrics that log-densities are reported in: units, directions, words."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A way to report log-densities."""

    name: str  # with its unit
    unit: str
    per_nat: float  # change of the metric per nat, before dividing by the number of dimensions
    text: str  # description on cards
    round_trip: str  # what errors of decoding encoded rows are measured in

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self.per_nat > 0 else -1

    @property
    def direction(self) -> str:
        """What a better score is, in words."""
        return f"{self.better} is better"

    @property
    def better(self) -> str:
        """The end of the scale where better scores are."""
        return "higher" if self.sign > 0 else "lower"

    def beside(self, value: float, other: float) -> str:
        """How far a score is from another one, in words."""
        gap = self.sign * (value - other)
        return f"{abs(gap):.4f} {'ahead of it' if gap >= 0 else 'behind it'}"


_COLUMN = "in standard deviations of a column"
_BITS = -1 / math.log(2)

METRICS = {
    "log_likelihood": Metric(
        "log-likelihood in nats",
        "nats",
        1.0,
        "Mean log-likelihood in nats per row, in the data's own units",
        _COLUMN,
    ),
    "bits": Metric("-log2 p in bits", "bits", _BITS, "Mean `-log2 p` per row", _COLUMN),
    "bits_per_dim": Metric(
        "bits/dim", "bits/dim", _BITS, "Bits per dimension", "with pixels in [0, 1]"
    ),
}
