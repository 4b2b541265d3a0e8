"""Between data as users hold it and what a transform takes: rounding, noise, units, ranges."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from nflows.transforms import CompositeTransform, Transform
from torch import Tensor

from impflow_zoo.models.columns import ColumnsConfig
from impflow_zoo.models.config import Config
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.limits import Limits
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.periods import Periods
from impflow_zoo.numerics.modes import seen
from impflow_zoo.numerics.solver import NumericalWarning
from impflow_zoo.transforms.context import StandardisedContext
from impflow_zoo.transforms.standardise import Standardise

__all__ = ["LOST", "TablePreprocessing", "preprocessing_of"]

_ROUNDED, LOST = 1e-3, 0.1  # standard deviations that a type's rounding moves a value by
_DEPENDENT = 1e-6  # of a column's standard deviation: functions of others leave less open
_MOST_COMPARED = 1000  # columns: correlations of more take long


class TablePreprocessing:
    """Noise of one rounding step, and a standardisation learned from the training rows."""

    learns = True  # whether `fit` has anything to learn

    def __init__(self, config: ColumnsConfig) -> None:
        self.rounding, self.columns = config.steps, config.columns
        self.offsets = [config.rounding_offset.get(name, 0.0) for name in config.columns]
        self.given = config.context_columns
        bounds = {name: config.bounds_of(name) for name in config.bounds}
        self.limits = Limits(self.columns, bounds)
        self.periods = Periods(self.columns, config.turns)
        self.per_nat = METRICS[config.metric].per_nat
        self.adds_noise = any(config.steps)  # whether `dequantise` uses its noise
        # Angles lie within their turns.
        self.reduced = self.to_data = self.periods.reduced
        self.inside = self.limits.inside  # which rows of model input have a density, `[B]`

    def dequantise(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Undo rounding: raw rows and uniform noise in [0, 1) of their shape -> model input."""
        if not self.rounding:
            return self.periods.reduced(raw)
        steps = torch.zeros(raw.shape[1], dtype=raw.dtype, device=raw.device)  # contexts: none
        steps[: len(self.rounding)] = steps.new_tensor(self.rounding[: len(steps)])
        found = raw + (noise - 0.5) * steps
        self.limits.spread(found, raw, noise, steps)
        return self.periods.reduced(found)

    def rounded(self, x: Tensor) -> Tensor:
        """Data with rounded columns on their grids, and within bounds."""
        if not self.adds_noise:
            return x
        found = x.double().clone()
        for i, step in enumerate(self.rounding[: x.shape[-1]]):
            if step:
                offset = self.offsets[i] if self.offsets else 0.0
                numbers = ((found[..., i] - offset) / step).round()
                numbers = self.periods.turned(numbers, i, step, offset)
                points = numbers * step + offset
                found[..., i] = points.round(decimals=max(_decimals(step), _decimals(offset)))
        return self.limits.within(found)

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """`x - y` of model inputs; of angles the shorter way round."""
        return self.periods.shorter(x - y)

    def check(self, x: Tensor, *, raw: bool = False) -> None:
        """Refuse model input out of bounds, or raw rows that no noise brings within."""
        self.limits.check(x, self.rounding, raw=raw)

    @torch.no_grad()
    def fit(
        self,
        transform: Transform,
        x: Tensor,
        context: Tensor | None,
        weights: Tensor | None = None,
    ) -> None:
        """Learn from raw training rows, contexts and weights, what the transform starts with."""
        parts = _until_standardised(transform)
        if not parts:
            raise ModelError("this model has no Standardise, so there is nothing to learn")
        *first, step = parts
        x = self.dequantise(x.double(), torch.full_like(x, 0.5, dtype=torch.float64))
        dtype = next(step.buffers()).dtype
        self.check(x.to(dtype))
        mean, std = _moments(x, self.columns, dtype, weights)  # the digits of raw values count, too
        raw = x
        for earlier in first:
            x, _ = earlier(x)
        if first:
            mean, std = _moments(x, self.columns, dtype, weights)
        angles = list(self.periods.turns)  # which keep their scale
        mean[angles], std[angles] = 0, 1
        step.set(mean, std)
        if context is not None:
            if not isinstance(transform, StandardisedContext):
                raise ModelError(
                    "the map of this model is no StandardisedContext, so contexts cannot be "
                    "standardised: make the map by table_transform"
                )
            transform.set(*_moments(context, self.given, dtype, weights))
            raw = torch.cat((raw, context.double()), dim=1)
        if raw.shape[1] <= _MOST_COMPARED:
            names = (*self.columns, *self.given)
            _check_differences(raw, names or range(raw.shape[1]), dtype)

    def spread(self, transform: Transform) -> Tensor | None:
        """The standard deviation of each column in the training rows, `[D]`, as the model knows it.

        Of bounded columns it is half the width of what is standardised to the range from -1 to 1.
        None if the transform has no standardisation.
        """
        parts = _until_standardised(transform)
        if not parts:
            return None
        one = torch.ones_like(next(parts[-1].buffers()))
        ends = torch.stack((one, -one))
        for part in reversed(parts):
            ends, _ = part.inverse(ends)
        return self.difference(ends[:1], ends[1:])[0].abs() / 2

    def metric(self, log_prob: Tensor) -> Tensor:
        """The model's metric from log-probabilities of model input in nats."""
        return log_prob * self.per_nat


def _decimals(step: float) -> int:
    """Digits behind the point that the multiples of a step have: 0.3, not 0.30000000000000004."""
    small = -math.floor(math.log10(abs(step))) if step else 0
    most = min(300, 12 + max(0, small))
    scaled = ((k, abs(step) * 10.0**k) for k in range(most))
    return next((k for k, one in scaled if abs(one - round(one)) <= 1e-9 * one), most + 3)


def _until_standardised(transform: Transform) -> list[Any]:
    """The parts up to the standardisation, in order; none if there is no such part."""
    parts, *_ = transform.children() if isinstance(transform, CompositeTransform) else ([],)
    found = list(parts)
    kinds = [isinstance(part, Standardise) for part in found]
    return found[: kinds.index(True) + 1] if any(kinds) else []


def _moments(
    x: Tensor, names: Sequence[str], dtype: torch.dtype, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, for a model that computes in a type."""
    if len(x) < 2:
        raise ModelError(f"cannot standardise with {len(x)} rows: at least two are needed")
    std, mean = torch.std_mean(x.double(), dim=0)
    if weights is not None:
        part = (weights / weights.sum()).to(x.device)[:, None]
        mean = (part * x.double()).sum(dim=0)
        std = (part * (x.double() - mean) ** 2).sum(dim=0).sqrt()
    called = names or range(x.shape[1])
    constant = [called[i] for i in (~(std > 0)).nonzero()[:, 0].tolist()]
    if constant:
        raise ModelError(f"columns {constant} are constant and have no density: leave them out")
    distance = mean.abs() / std
    far = float(distance.max()) * torch.finfo(dtype).eps
    if far > _ROUNDED:
        message = (
            f"column {called[int(distance.argmax())]} lies far from zero for its spread: {dtype} "
            f"rounds its values by {far:.1e} standard deviations, subtract an offset from it"
        )
        if far > LOST:  # what is left of it has few values, and a density without bound
            raise ModelError(message)
        warnings.warn(message, NumericalWarning, stacklevel=4)
    return mean, std


def _check_differences(x: Tensor, names: Sequence[str] | range, dtype: torch.dtype) -> None:
    """Warn where a type rounds a column by more than other columns leave open.

    So are the start and the end of a trip, in seconds since 1970: float32 rounds both by a minute,
    and so does their difference.

    Arguments:
        x: training rows, float64 with shape `[N, D]`, contexts included.
        names: of the columns, or their numbers.
        dtype: what the model computes in.
    """
    std, mean = torch.std_mean(x, dim=0)
    scaled = (x - mean) / std
    correlation = scaled.T @ scaled / len(x)
    correlation.diagonal().add_(1e-14)  # so that functions of other columns have an inverse
    # The standard deviation of each standardised column given the others is 1 / sqrt(diag(C^-1)).
    inverse, _ = torch.linalg.inv_ex(correlation)  # not finite if it is singular nevertheless
    unexplained = inverse.diagonal().abs().rsqrt()
    rounded = mean.abs() / std * torch.finfo(dtype).eps / unexplained
    rounded[~(unexplained > _DEPENDENT)] = 0
    if rounded.max() > LOST:
        column = int(rounded.argmax())
        warnings.warn(
            f"column {names[column]} lies far from zero, and its differences "
            f"to other columns are small: {dtype} rounds them by {float(rounded.max()):.1e} "
            "standard deviations, subtract an offset from these columns",
            NumericalWarning,
            stacklevel=4,
        )


class ImagePreprocessing:
    """uint8 images to [0, 1] by uniform dequantisation, and back.

    With fewer than 8 bits, images keep their 8-bit range: levels are `256 / 2^bits` apart, and the
    bits below are dropped on the way in and zero on the way out.
    """

    adds_noise, learns = True, False

    def __init__(self, config: ImageConfig) -> None:
        self.bits, self.channels = config.bits, config.channels
        self.step = 2 ** (8 - config.bits)
        self.levels = 2**config.bits
        self.per_nat = METRICS[config.metric].per_nat / math.prod(config.shape)

    def dequantise(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Undo rounding: uint8 images and uniform noise in [0, 1) of their shape -> [0, 1]."""
        if raw.dtype != torch.uint8:
            raise ValueError(f"images of type {raw.dtype}: uint8 is needed")
        found = (raw // self.step + noise) / self.levels
        found[:, self.channels :] = raw[:, self.channels :].to(found.dtype)  # labels, if any
        return found

    def to_data(self, x: Tensor) -> Tensor:
        """From what the transform takes to uint8."""
        level = (x * self.levels).floor().clamp(0, self.levels - 1)
        return level.to(torch.uint8) * self.step

    def reduced(self, x: Tensor) -> Tensor:
        """The same: pixels are no angles."""
        return x

    def rounded(self, x: Tensor) -> Tensor:
        """The same: images are rounded as they are."""
        return x

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """`x - y` of model inputs."""
        return x - y

    def spread(self, transform: Transform) -> None:
        """None: there is no standardisation."""

    def check(self, x: Tensor, *, raw: bool = False) -> None:
        """Refuse model input outside of [0, 1]."""
        outside = seen(((x < 0) | (x > 1)).flatten(1).any(dim=1))
        if bool(outside.any()):
            rows = outside.nonzero()[:, 0].tolist()
            raise ValueError(
                f"images out of [0, 1] in {len(rows)} of {len(outside)} rows (first: row "
                f"{rows[0]}): dequantise uint8 images first (model.dequantise), or use bits_per_dim"
            )

    def metric(self, log_prob: Tensor) -> Tensor:
        """Bits per dimension from log-probabilities of model input in nats."""
        return log_prob * self.per_nat + self.bits


def preprocessing_of(config: Config) -> TablePreprocessing | ImagePreprocessing:
    """The preprocessing of a kind of model."""
    if isinstance(config, ImageConfig):
        return ImagePreprocessing(config)
    return TablePreprocessing(config)
