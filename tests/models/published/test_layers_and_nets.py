"""Layers between p-norms, and layers that keep the vectors they come with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from impflow_zoo.lipschitz.activations import ACTIVATIONS
from impflow_zoo.lipschitz.norms import refresh_norms
from impflow_zoo.lipschitz.published_layers import PublishedConv2d, PublishedLinear, spaces
from impflow_zoo.lipschitz.published_nets import PublishedConvNet, PublishedMLP
from impflow_zoo.testing.case import tighten

INF = math.inf
CLOSED = [(1.0, 1.0), (1.0, 2.0), (1.0, INF), (2.0, INF), (INF, INF)]
every_closed_form = pytest.mark.parametrize("space", CLOSED, ids=lambda s: f"{s[0]:g}-{s[1]:g}")


def growth(function, size: int, space: tuple[float, float]) -> float:
    """Largest quotient of norms that gradient ascent finds."""
    x = torch.randn(64, size, dtype=torch.float64)
    if space[0] == INF:
        x = x.sign()
    if space[0] == 1:
        x = torch.cat((x, torch.eye(size, dtype=torch.float64)))
    for _ in range(200):
        x = (x / torch.linalg.vector_norm(x, space[0], dim=1, keepdim=True)).requires_grad_()
        y = torch.linalg.vector_norm(function(x), space[1], dim=1)
        (slope,) = torch.autograd.grad(y.sum(), x)
        x = (x + 0.1 * slope).detach() if space[0] == 2 else x.detach()
    return float(y.detach().max())


@every_closed_form
def test_linear_layers_keep_within_their_coefficient(space):
    layer = PublishedLinear(6, 5, 0.8).between(space).double().eval()
    with torch.no_grad():
        layer.weight.copy_(3 * torch.randn(5, 6))
    found = growth(lambda x: x @ layer.normalised_weight().mT, 6, space)
    assert found <= 0.8 * (1 + 1e-4)
    assert found >= 0.8 * 0.9
    dense = torch.linalg.matrix_norm(layer.normalised_weight(), 2)
    assert layer.norm_bound() == pytest.approx(float(dense.detach()))


@every_closed_form
def test_small_weights_are_left_alone(space):
    layer = PublishedLinear(6, 5, 0.8).between(space).eval()
    with torch.no_grad():
        layer.weight.mul_(1e-3)
    assert torch.equal(layer.normalised_weight(), layer.weight)


def test_rows_are_shrunk_one_by_one():
    layer = PublishedLinear(2, 2, 0.8).between((2.0, INF))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0], [0.3, 0.0]]))
    expected = torch.tensor([[0.48, 0.64], [0.3, 0.0]])
    torch.testing.assert_close(layer.normalised_weight(), expected)


@pytest.mark.parametrize("norm", ["2", "1111", "ffff", "222f"])
@pytest.mark.parametrize("kind", ["rows", "images"])
def test_nets_learn_and_are_certified_in_the_2_norm(norm, kind):
    if kind == "rows":
        net = PublishedMLP(4, (8, 8), "lipswish", 0.9, norm=norm, preactivation=True)
        x = torch.randn(16, 4)
    else:
        net = PublishedConvNet(
            2, (4, 4), 5, (3, 1, 3), "lipswish", preactivation=False, lipschitz=0.9, norm=norm
        )
        x = torch.randn(16, 2, 4, 4)
    assert net.lipschitz is None
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=1e-2), []
    for _ in range(10):
        optimizer.zero_grad()
        loss = (net(x) - x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    net.double().eval()
    a, b = x.double(), x.double() + 1e-3 * torch.randn_like(x.double())
    found = ((net(a) - net(b)).flatten(1).norm(dim=1) / (a - b).flatten(1).norm(dim=1)).max()
    assert found <= net.certificate()


def layers() -> list:
    learned = (math.nan, math.nan)
    return [
        PublishedLinear(6, 5, 0.8),
        PublishedConv2d(2, 3, 3, (4, 4), 0.8),
        PublishedLinear(6, 5, 0.8).between(learned),
        PublishedConv2d(2, 3, 1, (4, 4), 0.8).between((INF, 1.0)),
    ]


@pytest.mark.parametrize("layer", layers(), ids=["linear", "3x3", "learned", "1x1"])
def test_stored_vectors_move_in_training_alone(layer):
    layer.double()
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    layer.eval()
    for _ in range(2):
        layer.normalised_weight()
    refresh_norms(layer)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    if layer.space == (2, 2):
        with torch.no_grad():
            layer.weight.add_(torch.randn_like(layer.weight))
        layer.train().normalised_weight()
        assert not torch.equal(layer.u, before["u"])
    else:
        with pytest.raises(ValueError, match="not trained: call eval"):
            layer.train().normalised_weight()


@pytest.mark.parametrize("layer", layers(), ids=["linear", "3x3", "learned", "1x1"])
def test_the_factor_is_that_of_the_stored_vectors(layer):
    layer.double().eval()
    with torch.no_grad():
        layer.weight.mul_(20)
    sigma = float(torch.dot(layer.u, layer.operator(layer.weight.detach(), layer.v)))
    assert sigma > 0.8
    factor: Tensor = layer.weight / layer.normalised_weight()
    torch.testing.assert_close(factor, torch.full_like(factor, sigma / 0.8), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", ["", "3", "22", "22222", "inff"])
def test_unknown_norms_are_refused(norm):
    with pytest.raises(ValueError, match=f"unknown norm '{norm}': choose '2', or 4"):
        spaces(norm, 3)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("preactivation", [False, True])
def test_the_bound_of_a_net_with_layers_of_ours(name, preactivation):
    net = PublishedMLP(4, (16, 8), name, 0.9, preactivation=preactivation)
    tighten(net.double().eval(), 50)
    x = 2 * torch.randn(500, 4, dtype=torch.float64)
    y = x + torch.logspace(-3, 1, 500, dtype=torch.float64)[:, None] * torch.randn_like(x)
    with torch.no_grad():
        rise, run = (net(x) - net(y)).norm(dim=1), (x - y).norm(dim=1)
    assert float((rise / run).max()) <= 0.9 * (1 + 1e-9)
    assert net.certificate() == pytest.approx(0.9)
    assert net.lipschitz == 0.9


@pytest.mark.parametrize("layer", layers()[:2], ids=["linear", "3x3"])
def test_layers_are_bounded_before_vectors_are_loaded(layer):
    layer.double().eval()
    with torch.no_grad():
        layer.weight.mul_(20)
    assert 0.7 < layer.norm_bound() < 0.81
