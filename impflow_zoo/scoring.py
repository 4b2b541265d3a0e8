"""Log-probabilities of the rows of a data set, whatever their batches and processes."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, field
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
    stream_images,
)
from impflow_zoo.models.config import Config
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.seeds import Use
from impflow_zoo.numerics.estimate import Bias
from impflow_zoo.numerics.report import Report
from impflow_zoo.numerics.rows import listed
from impflow_zoo.numerics.seeds import mix
from impflow_zoo.numerics.solver import NumericalWarning
from impflow_zoo.processes import Processes
from impflow_zoo.transforms.base import NUMERICAL_ERRORS

__all__ = ["Score", "model_input", "open_rows", "open_stream", "score"]

_BATCH_SIZE, _BATCH_ENTRIES = 1000, 400_000  # rows, or entries of rows, at a time


def open_rows(
    config: Config,
    dataset: str,
    split: str | None,
    revision: str | None = None,
    size: int | None = None,
    *,
    skip_corrupt: bool = False,
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
        **_source_options(config),
    )
    found = tuple(read(source, [0]).rows.shape[1:])
    if found != config.shape:
        raise DataError(
            f"{source.name}: rows of shape {list(found)}, the model takes {list(config.shape)}"
        )
    return source


def open_stream(
    config: Config,
    dataset: str,
    split: str | None,
    revision: str | None = None,
    *,
    skip_corrupt: bool = False,
) -> Stream:
    """Open images for a model in order; each is of its format, or refused.

    Raises:
        DataError: if they cannot be opened, or the model is none of images.
    """
    image = _source_options(config).get("image")
    if image is None:
        raise DataError(f"{dataset}: streaming does not apply to this kind of data")
    return stream_images(dataset, split, image, revision=revision, skip_corrupt=skip_corrupt)


def _source_options(config: Config) -> dict[str, Any]:
    """What a data loader has to know of a model."""
    if isinstance(config, ImageConfig):
        height, width = config.image_size
        prepare = asdict(config.prepare)
        return {"image": ImageFormat(config.channels, (height, width), **prepare)}
    return {"columns": config.columns or None}


@dataclass(frozen=True)
class Score:
    """Log-probabilities of the rows of a source.

    Arguments:
        log_prob: nats, `[n]`, float64.
        variance: variance of their estimators, `[n]`, float64.
        logdet: how log-determinants were estimated.
        sums: by name, over all roots (`steps`) or log-determinants (`tail` and `bound` of their
            bias, NaN where nothing is known): their number, and the sum of the figures.
        skipped: rows left out because they cannot be read.
        first: the first of the rows as the model took them, 100 at most.
    """

    log_prob: Tensor
    variance: Tensor
    logdet: str = "exact"
    sums: dict[str, tuple[int, float]] = field(default_factory=dict)
    skipped: int = 0
    first: Tensor | None = None

    def mean(self, name: str) -> float:
        """A figure in the mean; 0 if there was none."""
        count, total = self.sums.get(name, (0, 0.0))
        return total / max(1, count)

    def add(self, name: str, count: int, total: float) -> None:
        """Count figures."""
        known = self.sums.get(name, (0, 0.0))
        self.sums[name] = (known[0] + count, known[1] + total)


def score(
    model: FlowModel,
    source: Source | Stream,
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
    source: Source | Stream,
    seed: int,
    limit: int | None,
    batch_size: int,
    processes: Processes,
    *,
    progress: bool,
) -> Score:
    """The score of the rows that are this process's."""
    parts = [Score(torch.zeros(0), torch.zeros(0))]
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
            bar.update(len(batch.index) + batch.left_out)
            parts.append(_score_batch(model, batch, seed, source.name))
    return _joined(parts)


def _score_batch(model: FlowModel, batch: Batch, seed: int, name: str) -> Score:
    if not len(batch.index):
        return Score(torch.zeros(0), torch.zeros(0), skipped=batch.left_out)
    x = model_input(model, batch, seed)
    keys = [mix(seed, Use.SCORED_PROBES, row) for row in batch.index.tolist()]
    report = Report()
    value, error = model.log_prob_with_error(x, keys=keys, report=report)
    _warn_of_rows_without_density(batch, value, name)
    logdet = report.logdets[0].mode if report.logdets else "exact"
    scored = Score(
        value.double().cpu(),
        error.double().cpu() ** 2,
        logdet,
        skipped=batch.left_out,
        first=x[:100].cpu(),
    )
    for root in report.roots:
        scored.add("steps", len(root.steps), float(root.steps.sum()))
    for estimate in report.logdets:
        bias, rows = estimate.bias or Bias(math.nan, math.nan), len(estimate.value)
        scored.add("tail", rows, rows * bias.tail)
        scored.add("bound", rows, rows * bias.bound)
    return scored


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
    whole = Score(
        torch.cat([part.log_prob for part in parts]).double(),
        torch.cat([part.variance for part in parts]).double(),
        next((part.logdet for part in parts if len(part.log_prob)), "exact"),
        skipped=sum(part.skipped for part in parts),
        first=next((part.first for part in parts if part.first is not None), None),
    )
    for part in parts:
        for name, (count, total) in part.sums.items():
            whole.add(name, count, total)
    return whole


def _total(source: Source | Stream, limit: int | None, processes: Processes) -> int | None:
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
