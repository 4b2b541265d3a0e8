"""The whole map of a model of a table: its preprocessing, then its steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from nflows.transforms import Transform
from torch import Tensor, nn

from impflow_zoo.models.columns import ColumnsConfig, angles_of
from impflow_zoo.models.digits import warn_of_lost_digits
from impflow_zoo.models.preprocessing import TablePreprocessing
from impflow_zoo.transforms.context import StandardisedContext
from impflow_zoo.transforms.interval import Interval
from impflow_zoo.transforms.standardise import Standardise
from impflow_zoo.transforms.torus import Angles, CircleToLine, OnColumns
from impflow_zoo.transforms.whole import WholeTransform

__all__ = ["table_transform"]


class _TableTransform(WholeTransform):
    """A whole map whose inverse warns of noise that it has too few digits to decode."""

    preprocessing: TablePreprocessing

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        outputs, logabsdet = super().inverse(inputs, context)
        warn_of_lost_digits(self, self.preprocessing, inputs, context, outputs)
        return outputs, logabsdet


class _ConditionalTableTransform(_TableTransform, StandardisedContext):
    """The same, given contexts in the data's own units."""


def table_transform(config: ColumnsConfig, steps: Iterable[Transform]) -> WholeTransform:
    """The transform of rows in the data's own units, `[B, D]`, to noise, `[B, D]`.

    Arguments:
        config: the columns.
        steps: transforms of standardised rows to noise; their contexts are standardised, too.
    """
    parts: list[Transform] = [Standardise(config.features), *steps]
    if angles := angles_of(config):
        periods = config.periods
        parts.insert(0, Angles([periods.get(name, 0.0) for name in config.columns]))
        parts.append(OnColumns(CircleToLine(), angles))
    if config.bounds:
        low, high = zip(*map(config.bounds_of, config.columns), strict=True)
        parts.insert(0, Interval(low, high))
    whole: _TableTransform
    if config.context_features is None:
        whole = _TableTransform(parts, config.shape)
    else:
        sizes = (config.context_features, *config.embedding_net)
        layers: list[nn.Module] = []
        for n, m in itertools.pairwise(sizes):
            layers += [nn.Linear(n, m), nn.SiLU()]
        net = nn.Sequential(*layers[:-1]) if layers else None
        features = config.context_features
        whole = _ConditionalTableTransform(parts, config.shape, features, net)
    whole.preprocessing = TablePreprocessing(config)
    return whole
