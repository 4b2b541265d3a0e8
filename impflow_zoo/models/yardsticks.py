"""Densities to compare flows with: a linear Gaussian, and a mixture density network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from nflows.transforms import Transform
from torch import Tensor, nn

from impflow_zoo.models.classes import register_model
from impflow_zoo.models.columns import ColumnsConfig
from impflow_zoo.models.fields import require, require_sizes
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.spline import without_constants
from impflow_zoo.models.table_transform import table_transform
from impflow_zoo.numerics.compiled import uncompiled
from impflow_zoo.numerics.modes import is_transforming
from impflow_zoo.transforms.mixture import MixtureAutoregressive
from impflow_zoo.transforms.whitening import Whitening

__all__ = ["LinearGaussian", "LinearGaussianConfig", "MixtureConfig", "MixtureDensityNetwork"]


@dataclass(frozen=True)
class LinearGaussianConfig(ColumnsConfig):
    """A Gaussian. Its arguments are those of `impflow_zoo.models.columns.ColumnsConfig`."""

    kind: ClassVar[str] = "linear-gaussian"


@register_model
class LinearGaussian(FlowModel):
    """`N(A c + b, S)`: linear regression with correlated residuals, or a full-covariance Gaussian.

    Arguments:
        config: a `LinearGaussianConfig`, or its JSON form as a dict.
    """

    config_types: ClassVar[tuple[type, ...]] = (LinearGaussianConfig,)

    config: LinearGaussianConfig

    def build(self) -> Transform:
        features, given = self.config.features, self.config.context_features
        regression = [] if given is None else [_Residual(features, given)]
        return table_transform(self.config, [*regression, Whitening(features)])


class _Residual(Transform):
    """`x - A c`, with `A` the least squares of the first training batch."""

    no_weights = True  # for optimizers: weight decay would shrink the slopes
    started = False

    def __init__(self, features: int, context_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, context_features))

    @uncompiled
    @torch.no_grad()
    def _start(self, inputs: Tensor, context: Tensor) -> None:
        if is_transforming() or len(inputs) < 2:
            return
        self.started = True
        if not self.weight.any():  # else it was trained before
            x, c = (part.double() - part.double().mean(dim=0) for part in (inputs, context))
            n, size = c.shape
            few = n < 10 * size
            ridge = n * ((size / n) ** 2 if few else 1e-10)  # of contexts that may be nearly equal
            moments = c.T @ c + ridge * torch.eye(size, dtype=c.dtype, device=c.device)
            self.weight.copy_(torch.linalg.solve(moments, c.T @ x).T)

    def forward(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and not self.started:
            self._start(inputs, context)
        return inputs - context @ self.weight.T, inputs.new_zeros(len(inputs))

    def inverse(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return inputs + context @ self.weight.T, inputs.new_zeros(len(inputs))


@dataclass(frozen=True)
class MixtureConfig(ColumnsConfig):
    """A mixture density network.

    Further arguments, such as `features` and `bounds`, are those of
    `impflow_zoo.models.columns.ColumnsConfig`.

    Arguments:
        components: number of Gaussians for each column.
        hidden_features: width of the residual net that computes their parameters; at least the
            number of columns.
        dropout: fraction of the hidden units that dropout zeroes in training.
    """

    kind: ClassVar[str] = "mixture"

    components: int = 10
    hidden_features: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "components", most=10_000)
        require_sizes(self, "hidden_features")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "between 0 and 1")


@register_model
class MixtureDensityNetwork(FlowModel):
    """A mixture of Gaussians for each column, given the context and the columns before it.

    Arguments:
        config: a `MixtureConfig`, or its JSON form as a dict.

    References:
        Mixture density networks (Bishop, 1994)
        https://publications.aston.ac.uk/id/eprint/373/
    """

    config_types: ClassVar[tuple[type, ...]] = (MixtureConfig,)
    citation: ClassVar[str] = """@techreport{bishop1994mixture,
  title={Mixture Density Networks},
  author={Bishop, Christopher M.},
  institution={Aston University},
  year={1994},
  url={https://publications.aston.ac.uk/id/eprint/373/}
}"""

    config: MixtureConfig

    def build(self) -> Transform:
        config = self.config
        layer = without_constants(
            lambda: MixtureAutoregressive(
                config.features,
                config.components,
                config.hidden_features,
                config.context_features,
                config.dropout,
            )
        )
        return table_transform(config, [layer])
