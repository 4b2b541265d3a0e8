"""Densities that need no training by steps: a Gaussian, and a mixture of Gaussians.

With context columns, both are fitted to all columns together and divided by their marginal.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from impflow_zoo.data import Source, TableSource
from impflow_zoo.models.config import Config
from impflow_zoo.models.preprocessing import TablePreprocessing, preprocessing_of
from impflow_zoo.numerics.seeds import Use, mix

if TYPE_CHECKING:
    import numpy

__all__ = ["Baseline", "gaussian", "gaussian_value", "mixture", "says_something"]

_LEAST_ROWS = 10  # for each column
_COMPONENTS = (2, 4, 8, 16, 32)
_ROWS = 10_000  # that a mixture is fitted to, at most
_GAUSSIAN_ROWS = 100_000  # that the Gaussian of a training is fitted to, at most


@dataclass(frozen=True)
class Baseline:
    """A mixture of Gaussians of standardised columns.

    Arguments:
        name: what it is.
        mean, scale: of the columns, `[D]`.
        weights: logarithms, `[K]`.
        means: `[K, D]`.
        covariances: `[K, D, D]`.
        columns: number of columns that are no context.
        validation: mean log-likelihood on validation rows, in nats.
    """

    name: str
    mean: numpy.ndarray
    scale: numpy.ndarray
    weights: numpy.ndarray
    means: numpy.ndarray
    covariances: numpy.ndarray
    columns: int
    validation: float = math.nan

    def log_prob(self, rows: numpy.ndarray) -> numpy.ndarray:
        """Nats of each row, `[N]`, of the columns given the context."""
        import numpy

        z = (rows - self.mean) / self.scale
        given = list(range(self.columns, z.shape[1]))
        value = self._mixed(z, list(range(z.shape[1]))) - numpy.log(self.scale).sum()
        if given:
            value = value - self._mixed(z, given) + numpy.log(self.scale[given]).sum()
        return value

    def _mixed(self, z: numpy.ndarray, kept: list[int]) -> numpy.ndarray:
        import numpy

        parts = []
        for weight, mean, covariance in zip(
            self.weights, self.means, self.covariances, strict=True
        ):
            factor = numpy.linalg.cholesky(covariance[numpy.ix_(kept, kept)])
            white = numpy.linalg.solve(factor, (z[:, kept] - mean[kept]).T)
            logdet = numpy.log(numpy.diag(factor)).sum() + 0.5 * len(kept) * math.log(2 * math.pi)
            parts.append(weight - logdet - 0.5 * (white**2).sum(axis=0))
        return numpy.logaddexp.reduce(parts, axis=0)


def says_something(rows: numpy.ndarray, weights: Any = None) -> bool:
    """Whether a Gaussian of rows, `[N, D]`, does: ten for each column, none of them constant."""
    return len(rows) >= _LEAST_ROWS * rows.shape[1] and bool((_moments(rows, weights)[1] > 0).all())


def _moments(rows: numpy.ndarray, weights: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Mean and standard deviation of columns, `[D]`."""
    import numpy

    mean = numpy.average(rows, axis=0, weights=weights)
    return mean, numpy.sqrt(numpy.average((rows - mean) ** 2, axis=0, weights=weights))


def gaussian(
    train: numpy.ndarray,
    validation: numpy.ndarray,
    columns: int,
    weights: tuple[Any, Any] = (None, None),
) -> Baseline:
    """A full-covariance Gaussian; with contexts, linear regression with correlated residuals.

    Arguments:
        train, validation: rows, `[N, D]`, the contexts last.
        columns: number of columns that are no context.
        weights: of the rows of both, `[N]`; None counts all alike.
    """
    import numpy

    mean, scale = _moments(train, weights[0])
    covariance = numpy.cov(((train - mean) / scale).T, bias=True, aweights=weights[0])
    covariance = covariance.reshape(2 * (len(mean),))
    covariance += 1e-9 * numpy.eye(len(mean))
    zero = numpy.zeros((1, len(mean)))
    found = Baseline("Gaussian", mean, scale, numpy.zeros(1), zero, covariance[None], columns)
    return _validated(found, validation, weights[1])


def mixture(
    train: numpy.ndarray,
    validation: numpy.ndarray,
    columns: int,
    seed: int,
    weights: tuple[Any, Any] = (None, None),
) -> Baseline | None:
    """The mixture of Gaussians of scikit-learn that is best on validation rows.

    Arguments:
        train, validation, columns, weights: as for `gaussian`. Scikit-learn takes no weights: rows
            are drawn with probabilities in proportion to them.
        seed: of the start, and of these draws.

    Returns:
        None if scikit-learn is missing, or there are too few rows, or too few that count.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
    except ImportError:
        return None
    import numpy

    if weights[0] is not None:
        part = weights[0] / weights[0].sum()
        train = train[numpy.random.default_rng(seed).choice(len(train), len(train), p=part)]
    mean, scale = train.mean(axis=0), train.std(axis=0)
    if not (scale > 0).all():  # the weights leave rows that are alike in a column
        return None
    z = (train[:_ROWS] - mean) / scale
    best: Baseline | None = None
    for number in _COMPONENTS:
        if len(z) < 5 * number * z.shape[1]:
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model: Any = GaussianMixture(number, random_state=seed % 2**32).fit(z)
        found = Baseline(
            f"Gaussian mixture of {number}",
            mean,
            scale,
            numpy.log(model.weights_),
            model.means_,
            model.covariances_,
            columns,
        )
        found = _validated(found, validation, weights[1])
        if best is not None and not found.validation > best.validation:
            break
        best = found
    return best


def gaussian_value(
    config: Config, splits: tuple[Source, Source], seed: int, limit: int | None
) -> float | None:
    """The value of a Gaussian on the validation rows of a training, in the metric of its model.

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

    known, counts = taken(train, torch.randperm(len(train), generator=generator)[:_GAUSSIAN_ROWS])
    if not says_something(known, counts):
        return None
    new, weights = taken(validation, torch.arange(len(validation))[:limit])
    nats = gaussian(known, new, config.shape[0], (counts, weights)).validation
    return float(preprocessing.metric(torch.tensor(nats, dtype=torch.float64)))


def _validated(found: Baseline, validation: numpy.ndarray, weights: Any) -> Baseline:
    import numpy

    value = numpy.average(found.log_prob(validation), weights=weights)
    return replace(found, validation=float(value))
