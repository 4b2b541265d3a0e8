"""Scores of a model on a data set with their errors, and round trips of rows."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.data import DataError, ImageStream, Source, TableSource
from impflow_zoo.data.weights import NoWeightsError
from impflow_zoo.evaluation.baselines import gaussian, says_something
from impflow_zoo.evaluation.predictive import Predictive, predictive
from impflow_zoo.evaluation.processes import Processes, alone
from impflow_zoo.evaluation.result import Result
from impflow_zoo.evaluation.rows import Split, column_of_weights, scored_split
from impflow_zoo.evaluation.scoring import Score, model_input, score
from impflow_zoo.evaluation.standard_errors import (
    effective_rows,
    standard_error,
    weighted_mean,
)
from impflow_zoo.models.density import Density
from impflow_zoo.models.digits import LARGEST_ERROR, remedy
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.registry import create_model
from impflow_zoo.models.rows import open_rows, source_options
from impflow_zoo.numerics.settings import is_whole
from impflow_zoo.numerics.solver import NumericalWarning
from impflow_zoo.transforms.whole import walk

__all__ = ["error_unit", "evaluate", "shown_rows"]


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
    predictions: bool = True,
    weights: str | None = None,
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
            memory: a DataFrame, or an array or tensor with the model's columns, contexts last; for
            all models a `datasets.Dataset`, or a `DatasetDict` and its split. None takes the data
            of the model's card: the split that ships with the model, else the data of its recipe.
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
        predictions: for conditional models of tables, also draw 99 samples for each row and say how
            well they predict it (`Result.predictive`), which takes longer than the scores.
        weights: column of a table that holds the weights of the rows, at least 0: the value is
            their weighted mean, and rows of weight 0 are left out. None takes the column that the
            model's recipe names, if it names one; `""` counts all rows alike.
        processes: share the rows with these processes, which all have to call `evaluate`:
            `impflow_zoo.evaluation.processes.together()` names those of a launcher (`torchrun`,
            `accelerate launch`). None scores all rows in this process, whatever others do.
        progress: show a progress bar on stderr.

    Returns:
        A `Result` with the value, its standard error (clustered by the column `group` of a table
        that has one), the standard error of the estimator, and more.

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
    seed = int(seed)
    column = column_of_weights(model, weights)
    with _evaluating(model), processes.united():
        if isinstance(dataset, str | os.PathLike | None):
            where = scored_split(model, dataset, split, revision)
            with _naming_recipe(asked=weights is not None):
                source = _opened(
                    model, where, column, skip_corrupt=skip_corrupt, streaming=streaming
                )
        else:
            named = isinstance(dataset, Mapping) and split in dataset
            with _naming_recipe(asked=weights is not None):
                options: dict[str, Any] = {"skip_corrupt": skip_corrupt, "weights": column}
                rows = dataset[split] if named else dataset
                source = open_rows(model.config, rows, None, **options)
            where = Split(source.name, split if named else None)
        start = time.perf_counter()
        scored = score(
            model,
            source,
            seed=seed,
            limit=limit,
            batch_size=batch_size,
            processes=processes,
            progress=progress,
        )
    n = len(scored.log_prob)
    groups, counts = _of_table(source, "groups", n), _of_table(source, "weights", n)
    with _evaluating(model):
        round_trip = _round_trip(model, scored, said=processes.first)
        predicted: tuple[Predictive, ...] = ()
        beside = None
        if isinstance(source, TableSource):
            inputs = [model_input(model, batch, seed) for batch in source.batches(1000, limit)]
            rows = torch.cat(inputs)
            with processes.united():
                predicted = _predicted(model, rows, seed, counts, processes) if predictions else ()
            beside = _gaussian(model, rows, counts)
    metric = model.preprocessing.metric
    values = metric(scored.log_prob)
    unit = abs(float(metric(torch.ones(1)) - metric(torch.zeros(1))))
    means = {name: float(figures.nanmean()) for name, figures in scored.figures.items()}
    nets = sum(len(block.steps) for block in model.blocks()) / len(model.parts)
    card = where.published
    if card and (card.n, card.metric) != (n, config.metric):  # of other rows, or in another unit
        card = None
    return Result(
        metric=config.metric,
        value=float(weighted_mean(values, counts)),
        stderr=float(standard_error(values, groups, counts)),
        estimator_stderr=_estimator_error(scored.figures["variance"], counts) * unit,
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
        gaussian=beside,
        weights=None if counts is None else column,
        row_weights=counts,
        commit=model.folder.commit if model.folder else None,
    )


def _of_table(source: Source | ImageStream, what: str, n: int) -> Tensor | None:
    """The groups or weights of the first rows, if they have any."""
    found: Tensor | None = getattr(source, what) if isinstance(source, TableSource) else None
    return None if found is None else found[:n]


def _predicted(
    model: FlowModel, rows: Tensor, seed: int, weights: Tensor | None, processes: Processes
) -> tuple[Predictive, ...]:
    x, context = model.parted(rows)
    return () if context is None else predictive(model, x, context, seed, weights, processes)


def _estimator_error(variances: Tensor, weights: Tensor | None) -> float:
    """The standard error of a mean of independent estimates; NaN stands for unknown variances."""
    known = ~variances.isnan()
    squares = None if weights is None else weights[known].square()
    rows = len(variances) if weights is None else effective_rows(weights)
    return float((weighted_mean(variances[known], squares) / rows).sqrt())


def _gaussian(model: FlowModel, rows: Tensor, weights: Tensor | None) -> float | None:
    """The value of a Gaussian of the rows themselves, where it says something."""
    if model.config.periodic:
        return None
    values = rows.double().cpu().numpy()
    if not says_something(values):
        return None
    counts = None if weights is None else weights.numpy()
    value = gaussian(values, values, len(model.columns), (counts, counts)).validation
    return float(model.preprocessing.metric(torch.tensor(value, dtype=torch.float64)))


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


@contextmanager
def _naming_recipe(*, asked: bool) -> Iterator[None]:
    """Say where the name of a column of weights is from, if the user has not named it."""
    try:
        yield
    except NoWeightsError as error:
        if asked:
            raise
        raise DataError(
            f'{error}; the recipe of the model names it: weights="" counts all rows alike'
        ) from None


def _opened(
    model: FlowModel,
    where: Split | Result,
    weights: str | None,
    *,
    skip_corrupt: bool,
    streaming: bool,
) -> Source | ImageStream:
    dataset, split, revision = where.dataset, where.split, where.revision
    if not streaming:
        return open_rows(
            model.config, dataset, split, revision, skip_corrupt=skip_corrupt, weights=weights
        )
    form = source_options(model.config).get("image")
    if form is None:
        raise DataError(f"{dataset}: streaming does not apply to this kind of data")
    if weights is not None:
        raise DataError(f"{dataset}: weights does not apply to this kind of data")
    return ImageStream.open(dataset, split, form, revision=revision, skip_corrupt=skip_corrupt)


def shown_rows(model: FlowModel, result: Result, *, streaming: bool = False) -> Tensor:
    """The first of the rows that were scored, for a picture.

    Arguments:
        model: the model that was evaluated.
        result: of `evaluate`.
        streaming: as in `evaluate`.

    Returns:
        At most 2,000 rows of a table `[N, D]`, or 100 images `[N, C, H, W]`.

    Raises:
        DataError: if the data cannot be read any more.
    """
    skipped = result.skipped > 0
    source = _opened(model, result, result.weights, skip_corrupt=skipped, streaming=streaming)
    most = 2000 if len(model.config.shape) == 1 else 100
    wanted = min(result.n + result.skipped, most)
    return torch.cat([batch.rows for batch in source.batches(wanted, wanted)])


def error_unit(rows: Tensor) -> Tensor:
    """What errors of rows are divided by: standard deviations of columns, `[D]`; 1 for images."""
    if rows.dim() != 2:
        return rows.new_ones(())
    spread = rows.std(dim=0, correction=0)
    return torch.where(spread > 0, spread, 1)


@torch.no_grad()
def _round_trip(model: FlowModel, scored: Score, *, said: bool) -> float:
    """The largest error of the first rows; where it is large, a warning if it is to be `said`."""
    assert scored.first is not None
    x, context = model.parted(scored.first.to(next(model.parameters()).device))
    errors = []
    densities = [module for module in model.modules() if isinstance(module, Density)]
    for part in [one for one in densities if one.parts == [one]]:  # ensembles have no map
        # `part.decode` would warn of its own guess, where the error is known here.
        z = part.encode(x, context)
        back, _ = walk(part.transform, z, context, backwards=True, want_logdet=False)
        errors.append(model.preprocessing.difference(back, x).abs())
    worst = float((torch.stack(errors) / error_unit(x)).max())
    if said and not worst <= LARGEST_ERROR:
        unit = METRICS[model.config.metric].round_trip
        warnings.warn(
            f"decoding the latents of {len(x)} rows in {x.dtype} is off by up to {worst:.1e}, "
            f"{unit}{remedy(x.dtype)}",
            NumericalWarning,
            stacklevel=4,
        )
    return worst
