"""The inverse of autoregressive layers, beside that of nflows."""

from __future__ import annotations

import pytest
import torch
from nflows.transforms.autoregressive import AutoregressiveTransform

from impflow_zoo import SplineConfig, SplineFlow
from impflow_zoo.transforms.autoregressive import ColumnByColumn
from impflow_zoo.transforms.mixture import MixtureAutoregressive

D = 4


def spline(context: int | None) -> ColumnByColumn:
    config = SplineConfig(
        D, blocks=1, hidden_features=8, context_features=context, layers="autoregressive"
    )
    (layer,) = (m for m in SplineFlow(config).modules() if isinstance(m, ColumnByColumn))
    return layer


def mixture(context: int | None) -> ColumnByColumn:
    return MixtureAutoregressive(D, 3, 8, context)


@pytest.mark.parametrize("make", [spline, mixture])
@pytest.mark.parametrize("context", [None, 2])
@pytest.mark.parametrize("n", [0, 7])
def test_the_inverse_is_that_of_nflows(make, context, n, monkeypatch):
    torch.manual_seed(0)
    layer = make(context).double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    z = torch.randn(n, D, dtype=torch.float64)
    c = None if context is None else torch.randn(n, context, dtype=torch.float64)
    expected = AutoregressiveTransform.inverse(layer, z, c)
    shapes, elementwise = [], layer._elementwise_inverse

    def counted(inputs, parameters):
        shapes.append(inputs.shape)
        return elementwise(inputs, parameters)

    monkeypatch.setattr(layer, "_elementwise_inverse", counted)
    torch.testing.assert_close(layer.inverse(z, c), expected)
    assert shapes == D * [(n, 1)]
