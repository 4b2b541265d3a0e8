"""The densities that `fit` compares its model with: a Gaussian and a Gaussian mixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.data import TableSource
from impflow_zoo.evaluation.baselines import Baseline, gaussian, mixture
from impflow_zoo.fitting.columns import Findings
from impflow_zoo.fitting.noise import noisy

__all__ = ["baselines_of", "scores_of"]


def baselines_of(
    findings: Findings,
    splits: Mapping[str, TableSource],
    seed: int,
    say: Callable[[str], None],
) -> tuple[Baseline, ...]:
    """The densities, fitted to the training rows and chosen on the validation rows.

    Arguments:
        findings: the columns.
        splits: the rows.
        seed: of the noise of rounding, and of the mixture.
        say: told a line if there is no mixture.
    """
    train, validation = (
        _noisy(findings, splits[name], seed + i) for i, name in enumerate(("train", "validation"))
    )
    size = len(findings.columns)
    weights = (_weights(splits["train"]), _weights(splits["validation"]))
    mixed = mixture(train, validation, size, seed, weights)
    if mixed is None:
        say("no Gaussian mixture to compare with: it needs scikit-learn, or more rows")
    return (gaussian(train, validation, size, weights), *([mixed] if mixed else []))


def scores_of(
    baselines: Sequence[Baseline], findings: Findings, rows: TableSource, seed: int
) -> dict[str, Tensor]:
    """Log-likelihoods of rows, `[N]`, in nats, by the names of the densities.

    Arguments:
        baselines: the densities.
        findings: the columns.
        rows: to score.
        seed: of the noise of rounding.
    """
    noisy = _noisy(findings, rows, seed)
    return {one.name: torch.from_numpy(one.log_prob(noisy)) for one in baselines}


def _weights(source: TableSource) -> Any:
    """The weights of rows as an array, `[N]`; None if all count alike."""
    return None if source.weights is None else source.weights.numpy()


def _noisy(findings: Findings, source: TableSource, seed: int) -> Any:
    """Rows with the noise of their rounding, `[N, D]`."""
    raw = source.rows(range(len(source)))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(raw.shape, generator=generator, dtype=raw.dtype)
    return noisy(findings, raw, noise).numpy()
