"""What `evaluate` returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from impflow_zoo.evaluation.predictive import Predictive
from impflow_zoo.evaluation.standard_errors import clustered, effective_rows
from impflow_zoo.models.digits import LARGEST_ERROR
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.metrics import METRICS

if TYPE_CHECKING:
    import pandas

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """The result of `evaluate`.

    Arguments:
        metric: `"log_likelihood"` (nats per row, higher is better), `"bits"` or `"bits_per_dim"`
            (lower is better).
        value: mean over the rows, weighted if they have weights.
        stderr: standard error of this mean, clustered by group if they have groups.
        estimator_stderr: the part of `stderr` that comes from estimated log-determinants.
        n: rows scored.
        dataset, split, revision, seed: the rows, and the seed of probes and noise.
        logdet: mode of the log-determinants.
        truncation_bound: bound on the bias of truncated log-determinants, in units of the metric;
            often vacuous for images. It takes the worst row of each batch.
        truncation_tail: estimate of this bias: the sum of the omitted terms if they shrink like
            the last ones.
        solver_steps: network evaluations per root.
        round_trip: largest error after encoding and decoding at most 100 rows, in standard
            deviations of a column over these rows (images: pixels in [0, 1]). More than 0.01
            emits a `NumericalWarning`.
        seconds: wall time.
        published: the value on the model's card, if the card has one of these rows, all of them.
        skipped: rows left out because they cannot be read.
        published_on: the data of the card's value, in words.
        per_row: the metric of each row, `[n]`, float64.
        predictive: for conditional models, how well each column is predicted.
        groups: number of groups that the rows come in; None for independent rows.
        row_groups: the group of each row, `[n]`, numbered from 0 in the order of the rows.
        gaussian: for tables, the value of a Gaussian that is fitted to these rows themselves; given
            contexts, of a linear regression. None for angles, images, and fewer than ten rows for
            each column.
        weights: the column that holds the weights of the rows; None if all count alike, or if the
            rows came with weights already.
        row_weights: the weight of each row, `[n]`; None if all count alike.
        commit: the commit on the Hub that the model was loaded from; None for a local model.
    """

    metric: str
    value: float
    stderr: float
    estimator_stderr: float
    n: int
    dataset: str
    split: str | None
    revision: str | None
    seed: int
    logdet: str
    truncation_bound: float
    truncation_tail: float
    solver_steps: float
    round_trip: float
    seconds: float
    published: float | None = None
    skipped: int = 0
    published_on: str | None = None
    per_row: Tensor | None = field(default=None, repr=False, compare=False)
    predictive: tuple[Predictive, ...] = ()
    groups: int | None = None
    row_groups: Tensor | None = field(default=None, repr=False, compare=False)
    gaussian: float | None = None
    weights: str | None = None
    row_weights: Tensor | None = field(default=None, repr=False, compare=False)
    commit: str | None = None

    def __str__(self) -> str:
        return f"{self._score()}, {self.n} rows of {' '.join(self.dataset.split())}"

    def _score(self) -> str:
        unit = METRICS[self.metric].unit
        return f"{self.value:.4f} +- {self.stderr:.4f} {unit}{clustered(self.groups)}"

    @property
    def effective_n(self) -> float | None:
        """The number of rows of one weight whose mean is as uncertain; None without weights."""
        return None if self.row_weights is None else effective_rows(self.row_weights)

    @property
    def table(self) -> pandas.DataFrame:
        """The metric of each row in a column of its name, by the number of the row, from 0.

        Raises:
            ModelError: if rows were left out, so that the numbers of the others are not known.
        """
        import pandas

        if self.skipped:
            raise ModelError("rows without their numbers: damaged images are left out")
        if self.row_weights is not None:
            raise ModelError(
                "rows without their numbers, as those of weight 0 are left out: "
                "weights='' scores all of them"
            )
        assert self.per_row is not None, "evaluate keeps it"
        return pandas.DataFrame({self.metric: self.per_row.numpy()}).rename_axis("row")

    @property
    def round_trip_inaccurate(self) -> bool:
        """Whether `round_trip` is more than 0.01."""
        return not self.round_trip <= LARGEST_ERROR

    def _weighted(self) -> str | None:
        if self.row_weights is None:
            return None
        where = "" if self.weights is None else f"; the weights are in column {self.weights!r}"
        rows = effective_rows(self.row_weights)
        return f"{rows:,.0f} rows of equal weight would give the same error{where}"

    def _on_card(self, unit: str) -> str | None:
        return (
            None if self.published is None else f"{self.published:.4f} {unit} ({self.published_on})"
        )

    def _beside_gaussian(self, unit: str) -> str | None:
        if self.gaussian is None:
            return None
        gap = METRICS[self.metric].beside(self.value, self.gaussian)
        return f"{self.gaussian:.4f} {unit}, fitted to these rows; {gap}"

    def to_dict(self) -> dict[str, Any]:
        """All fields but those of rows, and `round_trip_inaccurate`.

        Numbers that are not finite become None, as JSON has none.
        """
        known = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in vars(self).items()
            if key not in ("per_row", "row_groups", "row_weights")
        }
        known["effective_n"] = self.effective_n
        known["round_trip_inaccurate"] = self.round_trip_inaccurate
        return {**known, "predictive": [vars(column) for column in self.predictive]}

    def report(self, name: str) -> str:
        """The result in lines for people."""
        unit = METRICS[self.metric].unit
        split = f", split {self.split}" if self.split else ""
        skipped = f", {self.skipped} left out" if self.skipped else ""
        far = f", which is inaccurate: more than {LARGEST_ERROR}" * self.round_trip_inaccurate
        lines: dict[str, str | None] = {
            "model": name if self.commit is None else f"{name}, commit {self.commit}",
            "data": f"{self.dataset}{split}: {self.n} rows{skipped}",
            self.metric.replace("_", " "): self._score(),
            "weights": self._weighted(),
            "a Gaussian": self._beside_gaussian(unit),
            "on the card": self._on_card(unit),
            "estimator error": f"{self.estimator_stderr:.2e} {unit} (log-det {self.logdet})",
            "truncation": f"bound {self.truncation_bound:.2e}, tail {self.truncation_tail:.2e}",
            "solver": f"{self.solver_steps:.1f} evaluations per root",
            "round trip": f"{self.round_trip:.2e} at most, {METRICS[self.metric].round_trip}{far}",
            "time": f"{self.seconds:.1f} s",
        }
        if self.logdet == "exact":
            lines["estimator error"] = "none (log-det exact)"
        if self.logdet != "truncated":
            lines["truncation"] = None
        if not self.solver_steps:  # it finds no roots when it scores
            lines["solver"] = None
        if self.predictive:
            lines["prediction of"] = "; ".join(map(str, self.predictive))
        return "\n".join(
            f"{key:20} {' '.join(text.split())}" for key, text in lines.items() if text
        )
