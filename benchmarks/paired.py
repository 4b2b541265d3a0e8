"""How far one model is ahead of another on the same rows, with the error of the difference.

Run:
    python benchmarks/paired.py impflow-protein runs/impflow-protein --data FOLDER [--without 5]
    python benchmarks/paired.py runs/a,runs/a-1,runs/a-2 runs/b,runs/b-1,runs/b-2 --data FOLDER

Rows that are hard for one model are hard for the other. So the error of the mean difference is
smaller than that of two independent means. All models must be of the same columns.

A side may name several trainings, with commas, which differ in their seeds. With `a_si` the score
of row `i` by training `s` of side `a`, the lead is the mean over rows of

    d_i = mean_s a_si - mean_s b_si

and its error `sqrt(e^2 + v_a / S_a + v_b / S_b)`: `e` is the standard error of the mean of `d_i`,
clustered by group where rows have groups, and `v_a` is the variance between the `S_a` means over
rows of the trainings of side `a`. A side with one training has no `v`: the error leaves its seed
out, and the output says so. Chance that hangs on both the row and the training enters both terms,
so the error is a little too large. Three trainings tell `v` only roughly.

A lead of less than two of its errors is called level.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from impflow_zoo import create_model, evaluate
from impflow_zoo.data import DataError
from impflow_zoo.evaluation import Result
from impflow_zoo.evaluation.rows import scored_split
from impflow_zoo.evaluation.standard_errors import (
    clustered,
    same_groups,
    standard_error,
    weighted_mean,
)
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.mistakes import in_one_line


@dataclass(frozen=True)
class Lead:
    """By how much the first side is better.

    Arguments:
        value, error: in units of the metric.
        n: number of rows.
        groups: number of groups that the rows come in; None for independent rows.
        trainings: number of trainings of each side.
    """

    value: float
    error: float
    n: int
    groups: int | None
    trainings: tuple[int, int]

    @property
    def level(self) -> bool:
        """Whether the lead is below two of its errors."""
        return self.value == 0 or not abs(self.value) >= 2 * self.error  # the error may be NaN

    def text(self, unit: str) -> str:
        """The lead in a line."""
        of_one = ", without the error of a single seed" if 1 in self.trainings else ""
        first, second = self.trainings
        return (
            f"{self.value:+.4f} +- {self.error:.4f} {unit}, n = {self.n}{clustered(self.groups)}, "
            f"{first} against {second} trainings{of_one}{': level' if self.level else ''}"
        )


def lead(first: Sequence[Result], second: Sequence[Result], without: int = 0) -> Lead:
    """The lead of one side over another, without some rows of the largest difference.

    Raises:
        DataError: if the trainings are not scored on the same rows, or too few are left.
    """
    one = first[0]
    for other in (*first, *second):
        if (other.metric, other.n) != (one.metric, one.n):
            raise DataError("the models are not scored on the same rows")
        for what in ("row_groups", "row_weights"):
            if not same_groups(getattr(other, what), getattr(one, what)):
                raise DataError(
                    f"the models are scored on rows of other {what.removeprefix('row_')}"
                )
    sign = METRICS[one.metric].sign
    sides = [sign * torch.stack([result.per_row for result in side]) for side in (first, second)]
    kept = _smallest(sides[0].mean(dim=0) - sides[1].mean(dim=0), without)
    groups, weights = (
        None if extra is None else extra[kept] for extra in (one.row_groups, one.row_weights)
    )
    return lead_of_rows(sides[0][:, kept], sides[1][:, kept], groups, weights)


def lead_of_rows(
    first: Tensor,
    second: Tensor,
    groups: Tensor | None = None,
    weights: Tensor | None = None,
) -> Lead:
    """The lead of one side over another.

    Arguments:
        first, second: scores of the same rows, higher is better, with a row of the tensor for each
            training of the side, `[S, n]`.
        groups: the group of each row, `[n]`; None for independent rows.
        weights: the weight of each row, `[n]`; None counts all alike.
    """
    apart = first.mean(dim=0) - second.mean(dim=0)
    means = [weighted_mean(side, weights) for side in (first, second) if len(side) > 1]
    over_seeds = [float(standard_error(values)) for values in means]
    return Lead(
        float(weighted_mean(apart, weights)),
        math.hypot(float(standard_error(apart, groups, weights)), *over_seeds),
        len(apart),
        None if groups is None else len(groups.unique()),
        (len(first), len(second)),
    )


def _smallest(values: Tensor, without: int) -> Tensor:
    """The indices of all but some values of the largest magnitude, in order."""
    if not 0 <= without < len(values) - 1:
        raise DataError(f"{without} of {len(values)} rows cannot be left out")
    return values.abs().argsort()[: len(values) - without].sort().values


def refuse_other_columns(models: Sequence[FlowModel]) -> None:
    """Scores of models of other columns are densities of other things.

    Raises:
        DataError: if they are not all of the same columns, given the same columns.
    """
    one, *others = (_what(model) for model in models)
    for other in others:
        if other != one:
            raise DataError(f"the models are of different columns: {one} and {other}")


def _what(model: FlowModel) -> str:
    """What a model is a density of, whatever the order of its columns."""
    config = model.config
    if not (columns := config.columns):
        bits = f" of {config.bits} bits" if isinstance(config, ImageConfig) else ""
        columns = [f"{'x'.join(map(str, config.shape))} values{bits}"]
    given = sorted(config.context_columns)
    return ", ".join(sorted(columns)) + (f" given {', '.join(given)}" if given else "")


def scored(sides: Sequence[Sequence[FlowModel]], data: str | None) -> list[list[Result]]:
    """The scores of all models on the test rows of a set; None takes those of the first model."""
    # Shipped rows have no splits.
    rows = scored_split(sides[0][0], data, "test" if data else None)
    return [
        [evaluate(model, rows.dataset, rows.split, revision=rows.revision) for model in side]
        for side in sides
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "sides", nargs=2, metavar="MODEL[,MODEL...]", help="name or folder of each training"
    )
    parser.add_argument("--data", help="test rows; without it those of the first model")
    parser.add_argument(
        "--without", type=int, default=0, metavar="N", help="leave out the N largest differences"
    )
    options = parser.parse_args()
    sides = [[create_model(name) for name in side.split(",")] for side in options.sides]
    refuse_other_columns([*sides[0], *sides[1]])
    first, second = scored(sides, options.data)
    found = lead(first, second, options.without)
    print(found.text(METRICS[first[0].metric].unit))


if __name__ == "__main__":
    with in_one_line():
        main()
