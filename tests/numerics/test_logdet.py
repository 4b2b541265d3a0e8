"""The log-determinant `log det(I + J)`: bounds and estimators."""

from __future__ import annotations

import math

import pytest
import torch
from support.blocks import (
    Linear,
    build,
    contraction,
    dense_logdet,
    draw,
    jacobian,
    linearize,
    reported,
)
from torch import nn

from impflow_zoo import LipschitzMLP, LogDet, NumericalWarning, ResFlowTransform
from impflow_zoo.numerics.estimate import truncation_bound
from impflow_zoo.numerics.logdet import NoContractionError
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.report import Report

# --- truncated ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_terms", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("kappa", [0.3, 0.9])
def test_truncated_is_the_series_of_its_probes(n_terms, kappa):
    features, n_probes = 5, 3
    matrix = contraction(features, kappa)
    x = torch.randn(4, features, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(n_probes):
        v = Probes().seeded(x[:1], 7, 0, i)[0]
        for k in range(1, n_terms + 1):
            power = torch.linalg.matrix_power(matrix, k)
            expected += (-1) ** (k + 1) / k * (v @ power @ v) / n_probes
    settings = LogDet("truncated", n_terms=n_terms, n_probes=n_probes, seed=7)
    _, logabsdet = ResFlowTransform(Linear(matrix), settings)(x)
    torch.testing.assert_close(logabsdet, expected.expand(4), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_terms", [1, 2, 5, 12])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_truncation_bound_holds_and_is_sharp(n_terms, sign):
    """For `J = -kappa I` every term has one sign and every probe is exact."""
    features, kappa = 6, 0.8
    net = Linear(sign * kappa * torch.eye(features, dtype=torch.float64), lipschitz=kappa)
    x = torch.randn(2, features, dtype=torch.float64)
    block = ResFlowTransform(net, LogDet("truncated", n_terms=n_terms))
    (estimate,) = reported(block, x).logdets
    bias = (estimate.value - features * math.log1p(sign * kappa)).abs().max().item()
    expected = features * sum(kappa**k / k for k in range(n_terms + 1, 400))
    assert estimate.bias.bound == pytest.approx(expected)
    assert bias <= estimate.bias.bound * (1 + 1e-12)
    if sign < 0:
        assert bias == pytest.approx(estimate.bias.bound)


def test_the_bound_for_nets_of_unknown_constant():
    assert math.isnan(truncation_bound(None, 3, 10))
    assert truncation_bound(1.0, 3, 10) == math.inf
    assert truncation_bound(0.5, 3, 60) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kappa", [0.3, 0.6, 0.9])
def test_the_tail_estimate(kappa):
    """For `J = -kappa I` it is the sum of a geometric series just above the true tail."""
    features, n_terms = 6, 12
    net = Linear(-kappa * torch.eye(features, dtype=torch.float64))
    block = ResFlowTransform(net, LogDet("truncated", n_terms=n_terms))
    (estimate,) = reported(block, torch.randn(3, features).double()).logdets
    tail = estimate.bias.tail
    missing = (estimate.value - features * math.log1p(-kappa)).max().item()
    assert 0.8 * missing <= tail <= 2 * missing


@torch.no_grad()
@pytest.mark.parametrize("slope", [1.1, pytest.param(1.0, marks=pytest.mark.slow)])  # all terms
def test_the_tail_is_infinite_where_the_series_does_not_converge(slope):
    net = Linear(-slope * torch.eye(3, dtype=torch.float64))
    block = ResFlowTransform(net, LogDet("truncated", n_terms=5))
    (estimate,) = reported(block, torch.randn(1, 3).double()).logdets
    assert estimate.bias.tail == math.inf


def test_the_spread_of_the_probes_is_reported():
    net = Linear(contraction(5, 0.6))
    x = torch.randn(1, 5, dtype=torch.float64)
    (estimate,) = reported(ResFlowTransform(net, LogDet("truncated", n_probes=100)), x).logdets
    one_by_one = torch.stack(
        [ResFlowTransform(net, LogDet("truncated", n_probes=1, seed=s))(x)[1] for s in range(100)]
    )
    variance = estimate.variance
    assert variance.shape == (1,)
    assert variance.item() == pytest.approx(one_by_one.var().item() / 100, rel=0.3)


def test_more_probes_and_terms_come_closer():
    net = Linear(contraction(8, 0.7))
    x = torch.randn(1, 8, dtype=torch.float64)
    exact = ResFlowTransform(net, "exact")(x)[1]
    settings = LogDet("truncated", n_terms=60, n_probes=100)
    (estimate,) = reported(ResFlowTransform(net, settings), x).logdets
    assert (estimate.value - exact).abs() <= 4 * estimate.variance.sqrt()
    assert estimate.variance.sqrt() < 0.15


# --- exact and auto -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "training", "mode"),
    [
        (10, True, "exact"),
        (11, True, "unbiased"),
        (64, False, "exact"),
        (65, False, "truncated"),
    ],
)
def test_what_auto_means(features, training, mode):
    block = ResFlowTransform(LipschitzMLP(features, (8,), lipschitz=0.5)).train(training)
    report = Report()
    for backwards in (False, True):
        block.run(torch.randn(2, features), backwards=backwards, report=report)
    assert [estimate.mode for estimate in report.logdets] == [mode, mode]


@pytest.mark.parametrize("slope", [-1.0, -1.5])
def test_exact_raises_where_the_net_is_no_contraction(slope):
    """One eigenvalue at or beyond -1 for rows with a positive first entry, only there."""

    def net(x):
        return torch.stack((slope * torch.relu(x[:, 0]), 0.5 * x[:, 1]), dim=1)

    block = ResFlowTransform(_module(net), "exact")
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
    with pytest.raises(NoContractionError, match=r"det\(I \+ J\) <= 0 in 2 of 3"):
        block(x)
    assert block(x[1:2])[1].item() == pytest.approx(math.log(1.5))


def _module(function):
    module = nn.Module()
    module.forward = function
    return module


def test_a_net_that_does_not_depend_on_its_input():
    block = ResFlowTransform(_module(lambda x: torch.ones_like(x)), "exact")
    x = torch.randn(3, 2, dtype=torch.float64)
    for mode in ("exact", "truncated", "unbiased"):
        block.logdet = LogDet(mode)
        z, logabsdet = block(x)
        assert torch.equal(z, x + 1)
        assert torch.equal(logabsdet, torch.zeros(3).double())
        torch.testing.assert_close(block.inverse(z)[0], x)


def test_exact_and_jacobian_agree_for_images():
    """The Jacobian of a net on `[B, 1, 3, 3]` is the one of its flat rows."""
    block = build("resflow-user-image")
    x, _ = draw("resflow-user-image")
    point = linearize(block.net, x)
    torch.testing.assert_close(point.jacobian(), jacobian(block.net, x))
    torch.testing.assert_close(block(x)[1], dense_logdet(block.encode, x))


ROULETTE = LogDet("unbiased", series="roulette", n_terms=2)
DIVERGING = {
    **{f"solve {f:g}": (LogDet("unbiased"), f) for f in (2.0, -1.5, 1.2)},
    **{f"truncated {f:g}": (LogDet("truncated"), f) for f in (2.0, -1.5, 1.2)},
    "roulette 2": (ROULETTE, 2.0),  # a short series cannot tell a smaller factor
}


@pytest.mark.parametrize(("logdet", "factor"), DIVERGING.values(), ids=DIVERGING)
def test_a_series_that_diverges_is_refused_in_evaluation_and_nan_in_training(logdet, factor):
    class Stretch(nn.Module):
        def forward(self, x):
            return factor * x

    torch.manual_seed(0)
    block = ResFlowTransform(Stretch(), logdet=logdet)
    x = torch.randn(3, 2, dtype=torch.float64)
    with pytest.raises(NoContractionError, match="diverges in 3 of 3 rows"):
        block.eval()(x)
    with pytest.warns(NumericalWarning, match="diverges in 3 of 3 rows"):
        assert block.train()(x)[1].isnan().all()
