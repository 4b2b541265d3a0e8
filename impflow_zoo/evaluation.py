"""Scores of a model on a data set with their errors, and round trips of rows."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.data import DataError, ImageStream, Source, TableSource
from impflow_zoo.models.digits import LARGEST_ERROR, remedy
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.walk import walk
from impflow_zoo.numerics.settings import is_whole
from impflow_zoo.numerics.solver import NumericalWarning
from impflow_zoo.predictive import Predictive, predictive
from impflow_zoo.processes import Processes, alone
from impflow_zoo.registry import Split, create_model, scored_split
from impflow_zoo.scoring import Score, model_input, open_rows, score, source_options
from impflow_zoo.smoke import few_rows
from impflow_zoo.standard_errors import clustered, standard_error

__all__ = ["Result", "evaluate", "shown_rows"]


@dataclass(frozen=True)
class Result:
    """The result of `evaluate`.

    Arguments:
        metric: `"log_likelihood"` (nats per row, higher is better), `"bits"` or `"bits_per_dim"`
            (lower is better).
        value: mean over the rows.
        stderr: standard error of the mean over the rows, clustered by group if they have groups.
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

    @property
    def round_trip_inaccurate(self) -> bool:
        """Whether `round_trip` is more than 0.01."""
        return not self.round_trip <= LARGEST_ERROR

    def to_dict(self) -> dict[str, Any]:
        """All fields but those of rows, and `round_trip_inaccurate`.

        Numbers that are not finite become None, as JSON has none.
        """
        known = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in vars(self).items()
            if key not in ("per_row", "row_groups")
        }
        known["round_trip_inaccurate"] = self.round_trip_inaccurate
        return {**known, "predictive": [vars(column) for column in self.predictive]}

    def report(self, name: str) -> str:
        """The result in lines for people."""
        unit, card = METRICS[self.metric].unit, "-"
        if self.published is not None:
            card = f"{self.published:.4f} {unit} ({self.published_on})"
        split = f", split {self.split}" if self.split else ""
        skipped = f", {self.skipped} left out" if self.skipped else ""
        lines = {
            "model": name,
            "data": f"{self.dataset}{split}: {self.n} rows{skipped}",
            self.metric.replace("_", " "): (
                f"{self.value:.4f} +- {self.stderr:.4f} {unit}{clustered(self.groups)}"
            ),
            "on the card": card,
            "estimator error": f"{self.estimator_stderr:.2e} {unit} (log-det {self.logdet})",
            "truncation": f"bound {self.truncation_bound:.2e}, tail {self.truncation_tail:.2e}",
            "solver": f"{self.solver_steps:.1f} evaluations per root",
            "round trip": f"{self.round_trip:.2e} at most, {METRICS[self.metric].round_trip}",
            "time": f"{self.seconds:.1f} s",
        }
        if self.logdet == "exact":
            del lines["truncation"]
            lines["estimator error"] = "none (log-det exact)"
        if self.round_trip_inaccurate:
            lines["round trip"] += f", which is inaccurate: more than {LARGEST_ERROR}"
        if self.predictive:
            lines["prediction of"] = "; ".join(map(str, self.predictive))
        return "\n".join(f"{key:20} {' '.join(text.split())}" for key, text in lines.items())


def evaluate(
    model: FlowModel | str | os.PathLike[str],
    dataset: Any = None,
    split: str | None = None,
    *,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int | None = None,
    revision: str | None = None,
    skip_corrupt: bool = False,
    streaming: bool = False,
    processes: Processes | None = None,
    progress: bool = False,
) -> Result:
    """Evaluate a model on a split of a data set.

    Probes and dequantisation noise of a row depend only on the seed and its index. So the value
    does not depend on the batch size or on the number of processes that share the rows.

    Arguments:
        model: a model, a local folder, a Hub id, or a name from `list_models`; a model that is
            loaded here goes to a GPU if there is one.
        dataset: Hub id, local folder or file, or `toy:NAME`; for models of tables also rows in
            memory: a DataFrame, or an array or tensor with the model's columns, contexts last.
            None takes the data of the model's card: the split that ships with the model, else the
            data of its recipe.
        split: None takes the whole of a set with one split; without `dataset`, or for the
            recipe's own, the recipe's test split.
        seed: seed of probes and noise.
        limit: use only the first rows.
        batch_size: rows per batch; bounds memory. None takes fewer for larger rows.
        revision: branch, tag or commit of the data set on the Hub. Without `dataset`, None is the
            revision of the recipe; another one takes rows from the Hub, not the shipped ones.
        skip_corrupt: leave out images that cannot be decoded, with a warning for each; `limit`
            counts them, and all other rows keep their noise and probes. False stops at the first
            one.
        streaming: evaluate images while they are downloaded, and keep none; with `limit`, only the
            first rows are downloaded.
        processes: share the rows with these processes, which all have to call `evaluate`:
            `impflow_zoo.processes.together()` names those of a launcher (`torchrun`, `accelerate
            launch`). None scores all rows in this process, whatever others do.
        progress: show a progress bar on stderr.

    Returns:
        A `Result`: value, standard error (clustered by the column `group` of a table that has one),
        standard error of the estimator, and more.

    Raises:
        DataError: if the data cannot be opened or does not fit the model.
        ModelError: if the model cannot be loaded, an argument is out of its range, or another
            process has failed.
        SolverError: if a root is not found.
        NoContractionError: if a net is not a contraction at some row.
        NotFiniteError: if an intermediate value is not finite.
    """
    processes = processes or alone()
    if not isinstance(model, FlowModel):
        with processes.united():
            model = create_model(model, device=processes.device)
    config = model.config
    for name, value in (("limit", limit), ("batch_size", batch_size), ("seed", seed)):
        if value is not None and not is_whole(value):
            raise ModelError(f"{name}={value!r}: a whole number is needed")
        if value is not None and name != "seed" and value < 1:
            raise ModelError(f"{name}={value}: at least one row is needed")
    with _evaluating(model), processes.united():
        if isinstance(dataset, str | os.PathLike | None):
            where = scored_split(model, dataset, split, revision)
            source = _opened(model, where, skip_corrupt=skip_corrupt, streaming=streaming)
        else:
            source = open_rows(model.config, dataset, None)
            where = Split(source.name, None)
        start = time.perf_counter()
        scored = score(
            model,
            source,
            seed=seed,
            limit=few_rows(limit),
            batch_size=batch_size,
            processes=processes,
            progress=progress,
        )
    with _evaluating(model):
        round_trip = _round_trip(model, scored, said=processes.first)
        predicted = _predicted(model, source, seed, limit) if processes.first else ()
    metric = model.preprocessing.metric
    values = metric(scored.log_prob)
    n = len(values)
    groups = _groups(source, n)
    unit = abs(float(metric(torch.ones(1)) - metric(torch.zeros(1))))
    means = {name: float(figures.nanmean()) for name, figures in scored.figures.items()}
    nets, card = sum(len(block.steps) for block in model.blocks()), where.published
    if card and card.n != n:  # a part of the rows
        card = None
    return Result(
        metric=config.metric,
        value=float(values.mean()),
        stderr=float(standard_error(values, groups)),
        estimator_stderr=(means["variance"] / n) ** 0.5 * unit,
        n=n,
        dataset=where.dataset,
        split=where.split,
        revision=where.revision,
        seed=seed,
        logdet=scored.logdet,
        truncation_bound=means["bound"] * nets * unit,
        truncation_tail=means["tail"] * nets * unit,
        solver_steps=means["steps"],
        round_trip=round_trip,
        seconds=time.perf_counter() - start,
        published=card.value if card else None,
        skipped=scored.skipped,
        published_on=card.rows if card else None,
        per_row=values,
        predictive=predicted,
        groups=None if groups is None else len(groups.unique()),
        row_groups=groups,
    )


def _groups(source: Source | ImageStream, n: int) -> Tensor | None:
    """The groups of the first rows, if they have any."""
    groups = source.groups if isinstance(source, TableSource) else None
    return None if groups is None else groups[:n]


def _predicted(
    model: FlowModel, source: Source | ImageStream, seed: int, limit: int | None
) -> tuple[Predictive, ...]:
    if model.config.context_features is None or len(model.config.shape) == 3:
        return ()
    inputs = [model_input(model, batch, seed) for batch in source.batches(1000, few_rows(limit))]
    x, context = model.parted(torch.cat(inputs))
    assert context is not None
    return predictive(model, x, context, seed)


@contextmanager
def _evaluating(model: FlowModel) -> Iterator[None]:
    """The model in evaluation mode, and back as it was afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _opened(
    model: FlowModel, where: Split | Result, *, skip_corrupt: bool, streaming: bool
) -> Source | ImageStream:
    dataset, split, revision = where.dataset, where.split, where.revision
    if not streaming:
        return open_rows(model.config, dataset, split, revision, skip_corrupt=skip_corrupt)
    form = source_options(model.config).get("image")
    if form is None:
        raise DataError(f"{dataset}: streaming does not apply to this kind of data")
    return ImageStream.open(dataset, split, form, revision=revision, skip_corrupt=skip_corrupt)


def shown_rows(
    model: FlowModel, result: Result, limit: int | None = None, *, streaming: bool = False
) -> Tensor:
    """Some of the rows that a result speaks of, `[N, ...]`, for a picture."""
    source = _opened(model, result, skip_corrupt=result.skipped > 0, streaming=streaming)
    wanted = min(
        result.n + result.skipped, limit or (2000 if len(model.config.shape) == 1 else 100)
    )
    return torch.cat([batch.rows for batch in source.batches(wanted, wanted)])


@torch.no_grad()
def _round_trip(model: FlowModel, scored: Score, *, said: bool) -> float:
    """The largest error of the first rows; where it is large, a warning if it is to be `said`."""
    assert scored.first is not None
    x, context = model.parted(scored.first.to(next(model.parameters()).device))
    # `model.decode` would warn of its own guess, where the error is known here.
    z = model.encode(x, context)
    back, _ = walk(model.transform, z, context, backwards=True, want_logdet=False)
    error = model.preprocessing.difference(back, x).abs()
    if x.dim() == 2:
        spread = x.std(dim=0, correction=0)
        error = error / torch.where(spread > 0, spread, 1)
    worst = float(error.max())
    if said and not worst <= LARGEST_ERROR:
        unit = METRICS[model.config.metric].round_trip
        warnings.warn(
            f"decoding the latents of {len(x)} rows in {x.dtype} is off by up to {worst:.1e}, "
            f"{unit}{remedy(x.dtype)}",
            NumericalWarning,
            stacklevel=4,
        )
    return worst
