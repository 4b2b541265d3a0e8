"""What a Gaussian scores on the validation rows of a run, to compare its model with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from impflow_zoo.data import Source, TableSource
from impflow_zoo.evaluation.baselines import gaussian, says_something
from impflow_zoo.models.config import Config
from impflow_zoo.models.preprocessing import TablePreprocessing, preprocessing_of
from impflow_zoo.numerics.seeds import Use, mix

if TYPE_CHECKING:
    import numpy

__all__ = ["gaussian_value"]

_ROWS = 100_000  # that the Gaussian is fitted to, at most


def gaussian_value(
    config: Config, splits: tuple[Source, Source], seed: int, limit: int | None
) -> float | None:
    """The value of a Gaussian on validation rows, in the metric of the model.

    It is fitted to training rows, 100,000 at most; given contexts, it is a linear regression.

    Arguments:
        config: of the model.
        splits: training and validation rows, the contexts last.
        seed: of the choice of rows and the noise of their rounding.
        limit: use only the first validation rows; None uses all.

    Returns:
        None for images, for angles, and where training rows are few or a column of them constant.
    """
    train, validation = splits
    preprocessing = preprocessing_of(config)
    if not isinstance(preprocessing, TablePreprocessing) or config.periodic:
        return None
    assert isinstance(train, TableSource)
    assert isinstance(validation, TableSource)
    generator = torch.Generator().manual_seed(mix(seed, Use.COMPARED))

    def taken(
        source: TableSource, rows: torch.Tensor
    ) -> tuple[numpy.ndarray, numpy.ndarray | None]:
        raw = source.rows(rows).double()
        noise = torch.rand(raw.shape, generator=generator, dtype=raw.dtype)
        weights = None if source.weights is None else source.weights[rows].numpy()
        return preprocessing.dequantise(raw, noise).numpy(), weights

    known, counts = taken(train, torch.randperm(len(train), generator=generator)[:_ROWS])
    if not says_something(known, counts):
        return None
    new, weights = taken(validation, torch.arange(len(validation))[:limit])
    nats = gaussian(known, new, config.shape[0], (counts, weights)).validation
    return float(preprocessing.metric(torch.tensor(nats, dtype=torch.float64)))
