"""Densities as estimators of scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy
import torch
from torch import Tensor

from impflow_zoo.data.columns import GROUP, Columns
from impflow_zoo.data.frames import has_names, in_memory
from impflow_zoo.data.weights import weighted
from impflow_zoo.fitting.budget import Plan, plan, prices
from impflow_zoo.fitting.columns import LEAST_ROWS, Findings, describe
from impflow_zoo.fitting.portfolio import candidates, own_candidate
from impflow_zoo.fitting.reading import Table
from impflow_zoo.fitting.run import checked, fit_splits
from impflow_zoo.fitting.splits import split
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.preprocessing import TablePreprocessing

try:
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError:
    raise ModelError(
        "impflow_zoo.sklearn needs scikit-learn: pip install 'impflow_zoo[sklearn]'"
    ) from None

__all__ = ["FlowDensity", "FlowRegressor"]

_BATCH = 1000  # rows scored at a time
_POINTS = 200  # of the noise, for a mean
_WIDER = 2  # their standard deviations: tails weigh much in the mean of a skewed target


class _FlowEstimator(BaseEstimator):
    """What both estimators share: their settings, and how they find a model."""

    def __init__(
        self,
        minutes: float = 5.0,
        *,
        model: str | None = None,
        config: Mapping[str, Any] | None = None,
        bounds: Mapping[str, Sequence[float | None]] | None = None,
        periodic: Mapping[str, float | Sequence[float]] | None = None,
        seed: int = 0,
        device: str | None = None,
        verbose: bool = False,
    ) -> None:
        self.minutes = minutes
        self.model = model
        self.config = config
        self.bounds = bounds
        self.periodic = periodic
        self.seed = seed
        self.device = device
        self.verbose = verbose

    def _find(self, columns: Columns, given: Sequence[str] = (), sample_weight: Any = None) -> None:
        """Search for a model of columns, given others, and keep it."""
        minutes, seed = checked(self.minutes, self.seed)
        weights = None if sample_weight is None else _free("sample_weight", columns.names)
        if weights is not None:
            rows = columns.numbers[columns.names[0]]
            found = _check_sample_weight(
                sample_weight, rows, dtype=numpy.float64, ensure_non_negative=True, copy=True
            )
            names = (*columns.names, weights)
            columns = replace(columns, names=names, numbers={**columns.numbers, weights: found})
            columns = weighted(columns, weights, "sample_weight")
        findings: Findings = describe(columns, given, "X", choose=False).with_stated(
            {} if self.bounds is None else self.bounds,
            {} if self.periodic is None else self.periodic,
        )
        for option in sorted({*findings.stated} & {*(self.config or {})}):
            raise ModelError(f"{option} stands in config, too: state it once")
        splits = split(Table("X", {"": columns}), findings, seed, test=False)
        if self.model is None and self.config is None:
            entrants = candidates(findings)
            rounds = plan(prices(entrants, findings, splits), 60 * minutes)
        else:
            entrants, rounds = (
                [own_candidate(self.model, self.config, len(findings.columns))],
                Plan(),
            )
        found = fit_splits(
            findings,
            splits,
            entrants,
            rounds,
            minutes=minutes,
            out=None,
            weights=weights,
            seed=seed,
            device=self.device,
            progress=self.verbose,
            baselines=False,
        )
        self.model_ = found.model
        self.model_.folder = None  # a temporary one
        self.tried_ = found.table
        if any(one.ended == "time" for one in found.tried):
            warnings.warn(
                "the machine is busy or slow, so the clock stopped the training before its end: "
                "results differ from run to run; give more minutes",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.rounding_ = dict(findings.rounding)


class FlowDensity(_FlowEstimator):
    """A density with the interface of `sklearn.neighbors.KernelDensity`.

    Arguments:
        minutes: time of the search and of the training, counted as `impflow_zoo.fit` counts it.
        model: a class of models such as `"SplineFlow"`, or a name from the table of `fit`, to be
            trained without a search; None searches.
        config: settings of the model's config, also without a search.
        bounds: lowest and highest value of columns that have ends, `(low, high)` by name, None or
            infinity for an open end: the density is zero outside. The columns of an array are
            called x0, x1, ...
        periodic: periods of columns that are angles, by name, or pairs, the ends of a turn.
        seed: of everything random in `fit`.
        device: of the training; None takes a GPU if there is one.
        verbose: show runs on stderr.

    Attributes:
        model_: the model, see `impflow_zoo.FlowModel`.
        tried_: a DataFrame of what was tried.
        rounding_: steps of columns that are rounded, by name. Noise of a step is added to them in
            training. Samples are rounded like the data.

    Example:
        >>> import numpy
        >>> X = numpy.random.default_rng(0).normal(size=(100, 2))
        >>> density = FlowDensity(0.001, model="LinearGaussian", device="cpu").fit(X)
        >>> density.score_samples(X).shape, density.sample(3, random_state=0).shape
        ((100,), (3, 2))
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:  # noqa: N803
        """Find the density of rows.

        Arguments:
            X: rows with shape `(n, d)`, an array or a DataFrame; ten at least.
            y: ignored.
            sample_weight: weights of the rows, `(n,)`, at least 0; None counts all alike. Rows of
                weight 0 are left out.

        Returns:
            The estimator itself.

        Raises:
            ValueError: for missing values, rows out of bounds, settings out of their ranges,
                weights that are negative or all zero, or columns that have no density: constant
                ones, copies, linear functions of others.
            StoppedFitError: a `KeyboardInterrupt`, if a signal asks to stop.
        """
        rows = validate_data(self, X, dtype=numpy.float64, ensure_min_samples=LEAST_ROWS)
        columns = in_memory(rows, _names(X))
        assert columns is not None
        self._find(columns, sample_weight=sample_weight)
        self._columns = X.columns if has_names(X) else None
        return self

    def score_samples(self, X: Any) -> numpy.ndarray:  # noqa: N803
        """Log-density of each row; columns are taken as they are, also those that are rounded.

        A rounded value at one of its bounds is taken as the middle of its step within them.

        Arguments:
            X: rows with shape `(n, d)`.

        Returns:
            Nats with shape `(n,)`; minus infinity where a row is too far from the training rows.

        Raises:
            NotFittedError: before `fit`.
            ValueError: for missing values, other columns, and rows that are not within the bounds.
            SolverError: if a root is not found.
        """
        rows = self._checked(X)
        return _log_prob(self.model_, torch.tensor(rows), None)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Log-likelihood of all rows together, as that of `KernelDensity`.

        Arguments:
            X: rows with shape `(n, d)`.
            y: ignored.

        Returns:
            Nats, a number.

        Raises:
            NotFittedError, ValueError, SolverError: as `score_samples`.
        """
        return float(self.score_samples(X).sum())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Rows drawn from the density.

        Arguments:
            n_samples: their number.
            random_state: a seed or a `numpy.random.RandomState`; None takes NumPy's global one.

        Returns:
            Rows with shape `(n_samples, d)`, a DataFrame if the density was fitted to one.

        Raises:
            NotFittedError: before `fit`.
            ValueError: for a negative number, and for what is no random state.
            SolverError: if a root is not found.
        """
        check_is_fitted(self, "model_")
        drawn = self.model_.sample(int(n_samples), generator=_generator(random_state), rounded=True)
        rows = drawn.double().numpy(force=True)
        if self._columns is None:
            return rows
        import pandas

        return pandas.DataFrame(rows, columns=self._columns)

    def _checked(self, X: Any) -> numpy.ndarray:  # noqa: N803
        check_is_fitted(self, "model_")
        rows: numpy.ndarray = validate_data(self, X, dtype=numpy.float64, reset=False)
        return rows


class FlowRegressor(RegressorMixin, _FlowEstimator):
    """The density of a target given features: means, quantiles, samples, log-densities.

    Arguments:
        minutes, model, config, seed, device, verbose: as in `FlowDensity`.
        bounds, periodic: the same of the target, which is called y if it has no name.

    Attributes:
        model_, tried_, rounding_: as in `FlowDensity`. Means and quantiles are those of the rounded
            target.

    Example:
        >>> import numpy
        >>> X = numpy.random.default_rng(0).normal(size=(100, 2))
        >>> regressor = FlowRegressor(0.001, model="LinearGaussian", device="cpu")
        >>> regressor = regressor.fit(X, X[:, 0] + X[:, 1] ** 2)
        >>> regressor.predict(X).shape, regressor.predict_quantiles(X, [0.05, 0.95]).shape
        ((100,), (100, 2))
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Find the density of a target given features.

        Arguments:
            X: features with shape `(n, d)`, an array or a DataFrame; ten rows at least. Features
                that are constant in them are left out.
            y: the target, `(n,)`.
            sample_weight: as for `FlowDensity`.

        Returns:
            The estimator itself.

        Raises:
            ValueError: for missing values, for a constant target or one out of bounds, for settings
                out of their ranges, if all features are constant, or for weights that are negative
                or all zero.
            StoppedFitError: a `KeyboardInterrupt`, if a signal asks to stop.
        """
        names = _names(X)
        features, target = validate_data(
            self, X, y, dtype=numpy.float64, ensure_min_samples=LEAST_ROWS, y_numeric=True
        )
        names = names or [f"x{i}" for i in range(features.shape[1])]
        named = y.columns[0] if has_names(y) else getattr(y, "name", None)
        own = _free(str(named or "y"), (*names, GROUP))
        self._used = _varying(features)
        numbers = {names[i]: features[:, i] for i in self._used}
        columns = Columns((own, *numbers), {own: target.astype(float), **numbers}, {})
        self._find(columns, list(numbers), sample_weight)
        return self

    def predict(self, X: Any) -> numpy.ndarray:  # noqa: N803
        """The mean of the target at each row: a weighted mean of 200 of its quantiles.

        Arguments:
            X: features with shape `(n, d)`.

        Returns:
            Means with shape `(n,)`.

        Raises:
            NotFittedError: before `fit`.
            ValueError: for missing values, other features, and a target that is an angle.
            SolverError: if a root is not found.
        """
        self._refuse_angles("mean")
        noise = _WIDER * _noise_at(_midpoints(_POINTS))
        weights = (-(noise**2) / 2 * (1 - 1 / _WIDER**2)).softmax(dim=0)  # ratio of two normals
        found: numpy.ndarray = self._drawn(X, noise) @ weights.numpy()
        return found

    def predict_quantiles(self, X: Any, q: Sequence[float]) -> numpy.ndarray:  # noqa: N803
        """Quantiles of the target at each row.

        Arguments:
            X: features with shape `(n, d)`.
            q: levels between 0 and 1.

        Returns:
            Quantiles with shape `(n, len(q))`.

        Raises:
            NotFittedError: before `fit`.
            ValueError: for a level out of this range, and as `predict`.
            SolverError: if a root is not found.
        """
        self._refuse_angles("quantiles")
        levels = numpy.asarray(q, dtype=float).reshape(-1)
        if not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"q={q}: levels between 0 and 1 are needed")
        # A flow of one column is monotone, but it may turn the order round.
        ends = [self._drawn(X, _noise_at(side)) for side in (levels, 1 - levels)]
        low, high = numpy.minimum(*ends), numpy.maximum(*ends)
        return numpy.where(levels < 0.5, low, high)

    def sample(self, X: Any, n_samples: int = 1, random_state: Any = None) -> numpy.ndarray:  # noqa: N803
        """Draws of the target at each row.

        Arguments:
            X: features with shape `(n, d)`.
            n_samples: number of draws at each row.
            random_state: a seed or a `numpy.random.RandomState`; None takes NumPy's global one.

        Returns:
            Values with shape `(n, n_samples)`.

        Raises:
            NotFittedError: before `fit`.
            ValueError: for missing values, other features, a negative number, and for what is no
                random state.
            SolverError: if a root is not found.
        """
        context = self._context(X)
        drawn = self.model_.sample(
            int(n_samples), context, generator=_generator(random_state), rounded=True
        )
        found: numpy.ndarray = drawn[..., 0].double().numpy(force=True)
        return found

    def score_samples(self, X: Any, y: Any) -> numpy.ndarray:  # noqa: N803
        """Log-density of the target given the features.

        Arguments:
            X: features with shape `(n, d)`.
            y: the target, `(n,)`.

        Returns:
            Nats with shape `(n,)`; minus infinity where a row is too far from the training rows.

        Raises:
            NotFittedError: before `fit`.
            ValueError: for missing values, other features, and targets not within the bounds.
            SolverError: if a root is not found.
        """
        check_is_fitted(self, "model_")
        features, target = validate_data(
            self, X, y, dtype=numpy.float64, reset=False, y_numeric=True
        )
        rows = torch.tensor(target, dtype=torch.float64)[:, None]
        return _log_prob(self.model_, rows, torch.tensor(features[:, self._used]))

    def _refuse_angles(self, what: str) -> None:
        check_is_fitted(self, "model_")
        if self.model_.config.periodic:
            (name,) = self.model_.columns
            raise ValueError(f"{name!r} is an angle, which has no {what}: use sample")

    def _context(self, X: Any) -> Tensor:  # noqa: N803
        check_is_fitted(self, "model_")
        features = validate_data(self, X, dtype=numpy.float64, reset=False)
        return torch.tensor(features[:, self._used]).to(next(self.model_.parameters()))

    @torch.no_grad()
    def _drawn(self, X: Any, noise: Tensor) -> numpy.ndarray:  # noqa: N803
        """The target at each row for some noise, the same at all rows, `(n, len(noise))`."""
        parts = []
        for context in self._context(X).split(max(1, 10_000 // max(1, len(noise)))):
            rows = context.repeat_interleave(len(noise), dim=0)
            z = noise.to(context).repeat(len(context))[:, None]
            x = self.model_.preprocessing.rounded(self.model_.decode(z, rows))
            parts.append(x[:, 0].view(len(context), len(noise)))
        found: numpy.ndarray = torch.cat(parts).double().numpy(force=True)
        return found


def _names(X: Any) -> list[str]:  # noqa: N803
    """The names of features, if they have any; none of them says which rows belong together."""
    names = [str(name) for name in X.columns] if has_names(X) else []
    return [_free(name, (GROUP, *names)) if name == GROUP else name for name in names]


def _free(name: str, taken: Sequence[str]) -> str:
    """A name that is not taken."""
    while name in taken:
        name = f"own {name}"
    return name


def _varying(features: numpy.ndarray) -> numpy.ndarray:
    """The numbers of the features that are not constant; all, if all are."""
    varying = features.min(axis=0) < features.max(axis=0)
    found: numpy.ndarray = numpy.flatnonzero(varying if varying.any() else ~varying)
    return found


def _midpoints(n: int) -> numpy.ndarray:
    """Levels that cut (0, 1) into parts of one size, at the middle of each."""
    return (numpy.arange(n) + 0.5) / n


def _noise_at(levels: numpy.ndarray) -> Tensor:
    """The quantiles of a standard normal distribution."""
    return torch.special.ndtri(torch.from_numpy(levels))


@torch.no_grad()
def _log_prob(model: FlowModel, rows: Tensor, context: Tensor | None) -> numpy.ndarray:
    """Nats of each row; minus infinity where the density is zero in the model's type.

    A rounded value at one of its bounds, where the density ends, is taken as the middle of the part
    of its step within them.
    """
    middle = model.dequantise(rows, torch.full_like(rows, 0.5))
    preprocessing = model.preprocessing
    assert isinstance(preprocessing, TablePreprocessing)
    for i, ends in preprocessing.limits.bounds.items():
        at = numpy.isin(rows[:, i], ends)
        rows[at, i] = middle[at, i]
    reference, parts = next(model.parameters()), []
    for i in range(0, len(rows), _BATCH):
        part = slice(i, i + _BATCH)
        given = None if context is None else context[part].to(reference)
        # In float64: many turns of an angle cost float32 its digits.
        parts.append(model.log_prob_with_error(rows[part].to(reference.device), given)[0])
    found: numpy.ndarray = torch.cat(parts).double().numpy(force=True)
    return found


def _generator(random_state: Any) -> torch.Generator:
    number = check_random_state(random_state).randint(2**31 - 1)
    return torch.Generator().manual_seed(int(number))
