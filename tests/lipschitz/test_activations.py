"""Activations: slopes of at most one, values and gradients, against difference quotients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impflow_zoo.lipschitz.activations import ACTIVATIONS, LipSwish, make_activation

every_activation = pytest.mark.parametrize("name", ACTIVATIONS)
PAIRING = ("clipswish", "cpila", "maxmin")
ELEMENTWISE = tuple(name for name in ACTIVATIONS if name not in PAIRING)


def slopes(activation, x):
    """Jacobian columns of a pairing or elementwise activation on single features, `[B, k]`."""
    x = x.clone().requires_grad_()
    outputs = activation(x[:, None])
    columns = [
        torch.autograd.grad(outputs[:, i].sum(), x, retain_graph=True)[0]
        for i in range(outputs.shape[1])
    ]
    return torch.stack(columns, dim=1)


def with_beta(name, beta):
    activation = make_activation(name).double()
    if isinstance(activation, LipSwish):
        with torch.no_grad():
            activation.beta.fill_(beta)
    return activation


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("beta", [0.0, 0.5, 10.0])
def test_slopes_on_a_dense_grid(name, beta):
    x = torch.cat((torch.linspace(-20, 20, 400_001), torch.linspace(-1, 1, 200_001))).double()
    slope = slopes(with_beta(name, beta), x)
    assert slope.shape == (len(x), 1)
    assert slope.abs().max() <= 1 + 1e-12
    assert slope.abs().max() > 0.99  # the constant is not given away


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1e3, 1e14, 1e37])
def test_cpila_far_from_zero(size, dtype):
    x = torch.tensor([[size], [-size]], dtype=dtype, requires_grad=True)
    value = ACTIVATIONS["cpila"]()(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    line = torch.tensor([[size, 0.0], [0.0, size]], dtype=dtype) / 1.06
    assert torch.allclose(value, line, rtol=1e-3)
    assert torch.allclose(slope.abs(), torch.tensor(1 / 1.06, dtype=dtype))


@pytest.mark.parametrize("name", ["clipswish", "cpila"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 10.0])
def test_jacobians_of_pairs_on_a_dense_grid(name, beta):
    x = torch.cat((torch.linspace(-20, 20, 400_001), torch.linspace(-1, 1, 200_001))).double()
    size = slopes(with_beta(name, beta), x).norm(dim=1)
    assert size.max() <= 1 + 1e-12
    assert size.max() > 0.99


@given(
    st.sampled_from(ELEMENTWISE),
    st.floats(-1e6, 1e6),
    st.floats(-30, 30),
)
def test_slopes_anywhere(name, x, beta):
    slope = slopes(with_beta(name, beta), torch.tensor([x], dtype=torch.float64))
    assert slope.isfinite().all()
    assert slope.abs().max() <= 1 + 1e-12


@given(
    st.sampled_from(PAIRING),
    st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4),
    st.floats(-30, 30),
)
def test_jacobians_anywhere(name, x, beta):
    activation = with_beta(name, beta)
    x = torch.tensor([x], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(activation, x)[0, :, 0]
    assert jacobian.shape == (4 * getattr(activation, "expansion", 1), 4)
    assert torch.linalg.matrix_norm(jacobian, 2) <= 1 + 1e-12


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@every_activation
def test_activations_by_difference_quotients(name, scale):
    activation = make_activation(name).double()
    a, b = scale * torch.randn(2, 5000, 4, dtype=torch.float64)
    quotients = (activation(a) - activation(b)).norm(dim=1) / (a - b).norm(dim=1)
    assert quotients.max() <= 1 + 1e-9


def test_what_activations_compute():
    x = torch.tensor([[-1.0, 0.0, 0.3, 2.0]], dtype=torch.float64)
    beta = math.log1p(math.exp(0.5))
    swish = x * torch.sigmoid(beta * x)
    expected = {
        "sin": torch.sin(2 * math.pi * x) / (2 * math.pi),
        "halfsin": x / 2 + torch.sin(2 * math.pi * x) / (4 * math.pi),
        "lipswish": swish / 1.1,
        "shifted-lipswish": (swish / 1.1 + 0.091 * x) / 1.091,
        "clipswish": torch.cat((swish, -x * torch.sigmoid(-beta * x)), dim=1) / 1.1 / 1.004,
        "maxmin": torch.tensor([[0.3, 2.0, -1.0, 0.0]], dtype=torch.float64),
        "elu": torch.where(x > 0, x, x.exp() - 1),
        "relu": x.clamp(min=0),
        "softplus": torch.log1p(x.exp()),
        "tanh": torch.tanh(x),
        "cpila": torch.cat((pila(x - 0.2), pila(-x - 0.2)), dim=1) / 1.06,
    }
    assert set(expected) == set(ACTIVATIONS)
    for name, value in expected.items():
        torch.testing.assert_close(make_activation(name).double()(x), value, msg=name)


def pila(x, k=5.0):
    below = (k**2 * x**3 / 2 - k * x**2 + x) * torch.exp(k * x)
    return torch.where(x >= 0, x, below)
