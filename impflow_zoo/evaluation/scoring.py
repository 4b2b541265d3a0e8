"""Log-probabilities of the rows of a data set; by any batches and number of processes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from impflow_zoo.data import Batch, DataError, ImageStream, Source, TableSource
from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.numerics.report import Report
from impflow_zoo.numerics.rows import listed
from impflow_zoo.numerics.seeds import Use, mix
from impflow_zoo.numerics.solver import NumericalWarning
from impflow_zoo.transforms.base import NUMERICAL_ERRORS

__all__ = ["Score", "StoppedError", "model_input", "score"]

_BATCH_SIZE, _BATCH_ENTRIES = 1000, 400_000  # rows, or entries of rows, at a time
_KEPT = 100  # rows for a round trip
_TWICE = 500  # rows that models of a single probe score again, with another one
_FIGURES = ("log_prob", "variance", "steps", "tail", "bound")


@dataclass(frozen=True)
class Score:
    """Figures of rows that were scored.

    Arguments:
        figures: by name, one number for each row, `[n]`, float64, NaN where nothing is known:
            `log_prob` in nats; `variance` of its estimator, with a single probe of the first 500
            rows only; in the mean over nets, evaluations per root (`steps`), and an estimate and a
            bound of the bias of truncated log-determinants (`tail`, `bound`), in nats.
        logdet: how log-determinants were estimated.
        skipped: rows left out because they cannot be read.
        first: the first of the rows as the model took them, contexts included, 100 at most.
    """

    figures: dict[str, Tensor]
    logdet: str = ""
    skipped: int = 0
    first: Tensor | None = None

    @property
    def log_prob(self) -> Tensor:
        """Nats, `[n]`, float64."""
        return self.figures["log_prob"]


class StoppedError(Exception):
    """Scoring has ended before the last row, as it was asked to."""


_NOTHING = Score({key: torch.zeros(0, dtype=torch.float64) for key in _FIGURES})


def score(
    model: FlowModel,
    source: Source | ImageStream,
    *,
    seed: int,
    limit: int | None = None,
    batch_size: int | None = None,
    processes: Processes | None = None,
    progress: bool = False,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> Score:
    """Log-probability of each row of a source, in its order; several processes share the rows.

    Raises:
        DataError: if there is no row to score, or a stream to share.
        SolverError, NoContractionError, NotFiniteError: in all processes, if one cannot score a
            row of its share.
        StoppedError: in all processes, if one is asked to stop between two batches.
    """
    processes = processes or Processes()
    if isinstance(source, ImageStream) and processes.count > 1:
        raise DataError(f"{source.name} is streamed: only one process can read it in order")
    if batch_size is None:
        batch_size = max(1, min(_BATCH_SIZE, _BATCH_ENTRIES // math.prod(model.config.shape)))
    total = limit
    if not isinstance(source, ImageStream):
        rows = range(min(len(source), limit or len(source)))
        total = len(processes.share(len(rows)))
        if isinstance(source, TableSource):  # all at once: messages count the rows of the file
            values = source.rows(rows).to(next(model.parameters()).dtype)
            model.preprocessing.check(values, raw=True)
    own: Score | Exception
    try:
        with (
            torch.no_grad(),
            tqdm(
                total=total,
                unit="row",
                disable=not (progress and processes.first),
                desc="scoring",
            ) as bar,
        ):
            parts, missing = [], _KEPT
            for batch in source.batches(batch_size, limit, processes.share):
                bar.update(len(batch.index) + batch.left_out)
                parts.append(_score_batch(model, batch, seed, source.name, missing))
                missing = max(0, missing - len(batch.index))
                if asked_to_stop():
                    raise StoppedError
            own = _joined(parts)
    except (*NUMERICAL_ERRORS, StoppedError) as error:
        own = error  # the others wait to hear of it
    shares = processes.gather(own)
    for share in shares:
        if isinstance(share, Exception):
            raise share
    scored = _joined(shares)
    if not len(scored.log_prob):
        left_out = scored.skipped
        reason = f"none of {left_out} rows can be read" if left_out else "the set is empty"
        raise DataError(f"{source.name}: {reason}")
    return scored


def _score_batch(model: FlowModel, batch: Batch, seed: int, name: str, kept: int) -> Score:
    if not len(batch.index):
        return replace(_NOTHING, skipped=batch.left_out)
    x = model_input(model, batch, seed)
    keys = [mix(seed, Use.SCORED_PROBES, row) for row in batch.index.tolist()]
    report = Report()
    value, error = model.log_prob_with_error(*model.parted(x), keys=keys, report=report)
    few = int((batch.index < _TWICE).sum())
    if few and bool(error.isnan().all()):
        keys = [mix(key, 1) for key in keys[:few]]
        other, _ = model.log_prob_with_error(*model.parted(x[:few]), keys=keys)
        error[:few] = (value[:few] - other).abs() / 2**0.5
    _warn_of_rows_without_density(batch, value, name)
    modes = {estimate.mode for estimate in report.logdets}
    mode = next((one for one in ("truncated", "unbiased") if one in modes), "exact")
    biases = [
        estimate.bias or ((math.nan if estimate.mode == "truncated" else 0.0,) * 2)
        for estimate in report.logdets
    ]
    found = (
        value,
        error.double() ** 2,
        _mean([root.steps for root in report.roots], value),
        _mean([torch.tensor(tail) for tail, _ in biases], value),
        _mean([torch.tensor(bound) for _, bound in biases], value),
    )
    return Score(
        {key: figures.double().cpu() for key, figures in zip(_FIGURES, found, strict=True)},
        mode,
        batch.left_out,
        x[:kept].cpu().clone(),
    )


def _mean(figures: list[Tensor], like: Tensor) -> Tensor:
    """The mean of figures for each row; 0 if there are none."""
    if not figures:
        return torch.zeros_like(like)
    return torch.stack([figure.double().expand(like.shape) for figure in figures]).mean(dim=0)


def _warn_of_rows_without_density(batch: Batch, log_prob: Tensor, name: str) -> None:
    """Name the rows whose density is zero in the model's type, or no number."""
    if lost := batch.index[~log_prob.isfinite().cpu()].tolist():
        warnings.warn(
            f"{name}: no finite log-density in row {listed(lost)}: too far from the "
            f"training data for {log_prob.dtype}",
            NumericalWarning,
            stacklevel=3,
        )


def _joined(parts: list[Score]) -> Score:
    parts = [_NOTHING, *parts]
    first = [part.first for part in parts if part.first is not None]
    return Score(
        {key: torch.cat([part.figures[key] for part in parts]) for key in _FIGURES},
        next((part.logdet for part in parts if part.logdet), ""),
        sum(part.skipped for part in parts),
        torch.cat(first)[:_KEPT] if first else None,
    )


def model_input(model: FlowModel, batch: Batch, seed: int) -> Tensor:
    """Rows of a source as the model takes them, noise keyed by seed and row; see `parted`."""
    noise = torch.zeros(batch.rows.shape, dtype=torch.float64)
    if model.preprocessing.adds_noise:
        for i, row in enumerate(batch.index.tolist()):
            generator = torch.Generator().manual_seed(mix(seed, Use.SCORED_NOISE, row))
            noise[i].uniform_(generator=generator)
    reference = next(model.parameters())
    return model.dequantise(batch.rows, noise).to(reference.dtype).to(reference.device)
