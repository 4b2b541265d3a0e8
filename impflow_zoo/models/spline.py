"""Spline flows, for comparison: nflows' layers with the interface of the zoo."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import (
    CompositeTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
    Permutation,
    PiecewiseRationalQuadraticCouplingTransform,
    Transform,
)
from nflows.transforms.made import MaskedLinear
from torch import Tensor, nn

from impflow_zoo.models.classes import register_model
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.mixed import off_meta, register_block
from impflow_zoo.models.spline_config import SplineConfig
from impflow_zoo.models.table_config import TabularConfig
from impflow_zoo.models.table_transform import table_transform
from impflow_zoo.numerics.finite import refuse_rows
from impflow_zoo.transforms.actnorm import ActNorm
from impflow_zoo.transforms.autoregressive import ColumnByColumn
from impflow_zoo.transforms.context_made import ContextMADE
from impflow_zoo.transforms.radial import RadialTransform
from impflow_zoo.transforms.whitening import Whitening

__all__ = ["SplineFlow", "without_constants"]


@register_model
class SplineFlow(FlowModel):
    """Neural spline flow: monotone rational-quadratic splines of each column.

    Its layers are invertible by construction, with exact log-determinants. It has no Lipschitz
    nets, so its certificate is empty. Beyond `tail_bound` it is the identity.

    Arguments:
        config: a `SplineConfig`, or its JSON form as a dict.

    References:
        Neural Spline Flows (Durkan et al., 2019)
        https://arxiv.org/abs/1906.04032

    Example:
        >>> from impflow_zoo import SplineConfig
        >>> model = SplineFlow(SplineConfig(features=2, blocks=2)).eval()
        >>> model.log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    config_types: ClassVar[tuple[type, ...]] = (SplineConfig,)
    block_kinds = ("spline-coupling", "spline-autoregressive")
    citation: ClassVar[str] = """@inproceedings{durkan2019neural,
  title={Neural Spline Flows},
  author={Durkan, Conor and Bekasov, Artur and Murray, Iain and Papamakarios, George},
  booktitle={Advances in Neural Information Processing Systems},
  year={2019},
  url={https://arxiv.org/abs/1906.04032}
}"""

    config: SplineConfig

    def build(self) -> Transform:
        config = self.config
        steps: list[Transform] = [Whitening(config.features)] if config.whiten else []
        for number, order in enumerate(_orders(config)):
            if config.actnorm and number:
                steps.append(ActNorm(config.features))
            if config.radial:
                steps.append(RadialTransform(config.features))
            steps += [_permutation(order), _layer(config)]
        if config.radial:
            steps.append(RadialTransform(config.features))
        return table_transform(config, steps)


def _block(layers: str, config: TabularConfig, number: int) -> Transform:
    """A layer as a block among others: the settings that they do not have are the defaults."""
    width = next(iter(config.hidden_features), SplineConfig.hidden_features)
    sizes: dict[str, Any] = {"hidden_features": width, "context_features": config.embedded_features}
    spline = SplineConfig(config.features, layers=layers, **sizes)
    order = _order(spline, number)
    if layers == "coupling":
        names = config.block_names
        count = names.count("spline-coupling")
        before = names[:number].count("spline-coupling")
        order = next(islice(_orders(replace(spline, blocks=count)), before, None))
    return CompositeTransform([_permutation(order), _layer(spline)])


for _layers in ("coupling", "autoregressive"):
    register_block(f"spline-{_layers}")(partial(_block, _layers))


def _order(config: SplineConfig, number: int) -> list[int]:
    """An order of the columns that looks random and depends on the layer's number alone."""
    draws = random.Random(number)
    return sorted(range(config.features), key=lambda _: draws.random())


def _orders(config: SplineConfig) -> Iterator[list[int]]:
    """The order of the columns before each layer, in places of the layer before.

    A coupling transforms the columns in odd places. If the later layers could not transform all of
    those that no layer has transformed yet, some of these take the places of columns that were.
    """
    features, columns = config.features, list(range(config.features))
    left = set(columns)
    for number in range(config.blocks):
        order = _order(config, number)
        if config.layers == "coupling":
            later = (config.blocks - number - 1) * (features // 2)
            here = [place for place in range(1, features, 2) if columns[order[place]] in left]
            short = max(0, len(left) - later - len(here))
            waiting = [place for place in range(0, features, 2) if columns[order[place]] in left]
            free = sorted({*range(1, features, 2)}.difference(here))
            for one, other in zip(waiting[:short], free, strict=False):
                order[one], order[other] = order[other], order[one]
            columns = [columns[place] for place in order]
            left.difference_update(columns[1::2])
        yield order


def _permutation(order: list[int]) -> Transform:
    return without_constants(lambda: Permutation(torch.tensor(order)))


def _layer(config: SplineConfig) -> Transform:
    splines: dict[str, Any] = {
        "num_bins": config.bins,
        "tails": "linear",
        "tail_bound": config.tail_bound,
    }
    sizes: dict[str, Any] = {
        "hidden_features": config.hidden_features,
        "context_features": config.context_features,
        "dropout_probability": config.dropout,
    }
    if config.layers == "autoregressive":
        return without_constants(lambda: _Autoregressive(config.features, **sizes, **splines))
    return without_constants(
        lambda: _Coupling(
            mask=[i % 2 for i in range(config.features)],
            transform_net_create_fn=lambda n, m: ResidualNet(n, m, **sizes),
            **splines,
        )
    )


def without_constants(make: Callable[[], nn.Module]) -> nn.Module:
    """A layer of nflows. Masks and orders follow from the config: weights do not hold them.

    Entries of a weight that its mask leaves out are zeros from the start, and stay zeros where an
    optimizer treats entries one by one: no answer depends on them, and zeros compress.
    """
    with off_meta():
        layer = make()
    for module in layer.modules():
        if isinstance(module, MaskedLinear):
            with torch.no_grad():
                module.weight.masked_fill_(module.mask == 0, 0.0)  # times 0 may be -0
        for name, value in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, value, persistent=False)
    return layer


Inverse = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _in_float64(inverse: Inverse, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, ...]:
    """The inverse of splines, in which float32 may make the discriminant negative.

    Raises:
        NotFiniteError: naming the rows that nflows answers with a bare AssertionError.
    """
    wide = inputs.double(), parameters.double()
    try:
        return tuple(value.to(inputs.dtype) for value in inverse(*wide))
    except AssertionError:
        lost = torch.tensor([_fails(inverse, *(t[[i]] for t in wide)) for i in range(len(inputs))])
        refuse_rows(lost, "splines with", f"numbers there are too large for {inputs.dtype}")
        raise


def _fails(inverse: Inverse, inputs: Tensor, parameters: Tensor) -> bool:
    try:
        inverse(inputs, parameters)
    except AssertionError:
        return True
    return False


class _Coupling(PiecewiseRationalQuadraticCouplingTransform):
    """nflows' layer with its inverse in float64, also for no rows at all."""

    def _coupling_transform(
        self, inputs: Tensor, transform_params: Tensor, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        # nflows reshapes, for which no rows leave the last size open.
        parameters = transform_params.unflatten(1, (inputs.shape[1], -1))
        outputs, logabsdet = self._piecewise_cdf(inputs, parameters, inverse)
        return outputs, logabsdet.sum(dim=1)

    def _piecewise_cdf(
        self, inputs: Tensor, transform_params: Tensor, inverse: bool = False
    ) -> Any:
        if not inverse:
            return super()._piecewise_cdf(inputs, transform_params)
        return _in_float64(partial(super()._piecewise_cdf, inverse=True), inputs, transform_params)


class _Autoregressive(ColumnByColumn, MaskedPiecewiseRationalQuadraticAutoregressiveTransform):
    """nflows' layer with its inverse in float64, and with a context for its first column, too."""

    def __init__(
        self,
        features: int,
        hidden_features: int,
        context_features: int | None,
        dropout_probability: float,
        **splines: Any,
    ) -> None:
        width = max(hidden_features, features)  # or no column would see the last ones
        net: dict[str, Any] = {"dropout_probability": dropout_probability}
        super().__init__(features, width, context_features, **net, **splines)
        if context_features and features > 1:  # a single column sees the context without help
            outputs = self._output_dim_multiplier()
            sizes = (features, width, context_features, outputs, dropout_probability)
            self.autoregressive_net = ContextMADE(*sizes)

    def _elementwise_inverse(self, inputs: Tensor, autoregressive_params: Tensor) -> Any:
        return _in_float64(super()._elementwise_inverse, inputs, autoregressive_params)
