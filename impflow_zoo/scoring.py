"""Log-probabilities of the rows of a data set, whatever their batches and processes."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from impflow_zoo.data import (
    Batch,
    DataError,
    ImageFormat,
    Source,
    Stream,
    batches,
    open_source,
    read,
)
from impflow_zoo.models.config import Config, ImageConfig
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.seeds import Use
from impflow_zoo.numerics.estimate import Bias, Estimate
from impflow_zoo.numerics.report import Report
from impflow_zoo.numerics.rows import listed
from impflow_zoo.numerics.seeds import mix
from impflow_zoo.numerics.solver import NumericalWarning
from impflow_zoo.processes import Processes
from impflow_zoo.transforms.base import NUMERICAL_ERRORS

__all__ = ["Score", "model_input", "open_rows", "score"]

_BATCH_SIZE, _BATCH_ENTRIES = 1000, 400_000  # rows, or entries of rows, at a time


def open_rows(
    config: Config,
    dataset: str,
    split: str | None,
    revision: str | None = None,
    size: int | None = None,
    *,
    skip_corrupt: bool = False,
    streaming: bool = False,
) -> Source:
    """Open data for a model; the arguments are those of `open_source`.

    Raises:
        DataError: if they cannot be opened, or their rows are not what the model takes.
    """
    source = open_source(
        dataset,
        split,
        revision=revision,
        size=size,
        skip_corrupt=skip_corrupt,
        streaming=streaming,
        **_source_options(config),
    )
    if isinstance(source, Stream):  # images are of the model's format, or refused one by one
        return source
    found = tuple(read(source, [0]).rows.shape[1:])
    if found != config.shape:
        raise DataError(
            f"{source.name}: rows of shape {list(found)}, the model takes {list(config.shape)}"
        )
    return source


def _source_options(config: Config) -> dict[str, Any]:
    """What a data loader has to know of a model."""
    if isinstance(config, ImageConfig):
        height, width = config.image_size
        prepare = asdict(config.prepare)
        return {"image": ImageFormat(config.channels, (height, width), **prepare)}
    return {"columns": config.columns or None}


@dataclass(frozen=True)
class Estimated:
    """What is known of the log-determinants of a batch.

    Arguments:
        rows: their number.
        mode: how they were estimated.
        tail, bound: of their bias, see `Bias`; NaN where nothing is known.
    """

    rows: int
    mode: str
    tail: float
    bound: float


@dataclass(frozen=True)
class Score:
    """Log-probabilities of the rows of a source.

    Arguments:
        log_prob: nats, `[n]`, float64.
        variance: variance of their estimators, `[n]`, float64.
        roots: rows and mean evaluations of each batch of roots.
        logdets: what is known of each batch of log-determinants.
        skipped: rows left out because they cannot be read.
        first: the first of the rows as the model took them, 100 at most.
    """

    log_prob: Tensor
    variance: Tensor
    roots: list[tuple[int, float]]
    logdets: list[Estimated]
    skipped: int = 0
    first: Tensor | None = None


def score(
    model: FlowModel,
    source: Source,
    *,
    seed: int,
    limit: int | None = None,
    batch_size: int | None = None,
    processes: Processes | None = None,
    progress: bool = False,
) -> Score:
    """Log-probability of each row of a source, in its order; several processes share the rows.

    Raises:
        DataError: if there is no row to score, or a stream to share.
        SolverError, NoContractionError, NotFiniteError: in all processes, if one cannot score a
            row of its share.
    """
    processes = processes or Processes()
    if isinstance(source, Stream) and processes.count > 1:
        raise DataError(f"{source.name} is streamed: one process alone can read it in order")
    if batch_size is None:
        batch_size = max(1, min(_BATCH_SIZE, _BATCH_ENTRIES // math.prod(model.config.shape)))
    own: Score | Exception
    try:
        own = _score_share(model, source, seed, limit, batch_size, processes, progress=progress)
    except NUMERICAL_ERRORS as error:
        own = error  # the others wait to hear of it
    parts = processes.gather(own)
    for part in parts:
        if isinstance(part, Exception):
            raise part
    scored = _joined(parts)
    if not len(scored.log_prob):
        left_out = scored.skipped
        reason = f"none of {left_out} rows can be read" if left_out else "the set is empty"
        raise DataError(f"{source.name}: {reason}")
    return scored


def _score_share(
    model: FlowModel,
    source: Source,
    seed: int,
    limit: int | None,
    batch_size: int,
    processes: Processes,
    *,
    progress: bool,
) -> Score:
    """The score of the rows that are this process's."""
    values, variances, first, skipped = [torch.zeros(0)], [torch.zeros(0)], None, 0
    roots: list[tuple[int, float]] = []
    logdets: list[Estimated] = []
    with (
        torch.no_grad(),
        tqdm(
            total=_total(source, limit, processes),
            unit="row",
            disable=not (progress and processes.first),
            desc="scoring",
        ) as bar,
    ):
        for batch in batches(source, batch_size, limit, processes.share):
            skipped += batch.left_out
            bar.update(len(batch.index) + batch.left_out)
            if not len(batch.index):
                continue
            x = model_input(model, batch, seed)
            keys = [mix(seed, Use.SCORED_PROBES, row) for row in batch.index.tolist()]
            report = Report()
            value, error = model.log_prob_with_error(x, keys=keys, report=report)
            roots += [(len(r.steps), float(r.steps.float().mean())) for r in report.roots]
            logdets += [_estimated(estimate) for estimate in report.logdets]
            _warn_of_rows_without_density(batch, value, source.name)
            values.append(value.double().cpu())
            variances.append(error.double().cpu() ** 2)
            first = x[:100].cpu() if first is None else first
    return Score(
        torch.cat(values).double(), torch.cat(variances).double(), roots, logdets, skipped, first
    )


def _warn_of_rows_without_density(batch: Batch, log_prob: Tensor, name: str) -> None:
    """Name the rows whose density is zero in the model's type, or no number."""
    lost = batch.index[~log_prob.isfinite().cpu()].tolist()
    if lost:
        warnings.warn(
            f"{name}: no finite log-density in row {listed(lost)}: too far from the data that "
            f"the model was trained on for {log_prob.dtype}",
            NumericalWarning,
            stacklevel=3,
        )


def _joined(parts: list[Score]) -> Score:
    return Score(
        torch.cat([part.log_prob for part in parts]),
        torch.cat([part.variance for part in parts]),
        [root for part in parts for root in part.roots],
        [logdet for part in parts for logdet in part.logdets],
        sum(part.skipped for part in parts),
        next((part.first for part in parts if part.first is not None), None),
    )


def _estimated(estimate: Estimate) -> Estimated:
    bias = estimate.bias or Bias(math.nan, math.nan)
    return Estimated(len(estimate.value), estimate.mode, bias.tail, bias.bound)


def _total(source: Source, limit: int | None, processes: Processes) -> int | None:
    """How many rows this process will see, as far as that is known."""
    if isinstance(source, Stream):
        return limit
    return len(processes.share(len(source) if limit is None else min(limit, len(source))))


def model_input(model: FlowModel, batch: Batch, seed: int) -> Tensor:
    """Rows of a source as the model takes them, noise keyed by seed and row."""
    noise = torch.zeros(batch.rows.shape, dtype=torch.float64)
    if model.adds_noise:
        for i, row in enumerate(batch.index.tolist()):
            generator = torch.Generator().manual_seed(mix(seed, Use.SCORED_NOISE, row))
            noise[i].uniform_(generator=generator)
    reference = next(model.parameters())
    return model.dequantise(batch.rows, noise).to(reference.dtype).to(reference.device)
