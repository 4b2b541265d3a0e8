"""Unbiased estimates of the log-determinant, by a solve or by a randomly stopped series."""

from __future__ import annotations

import math

import pytest
import torch
from support.blocks import (
    Linear,
    UserNet,
    build,
    contraction,
    draw,
    tighten,
)

from impflow_zoo import ImpFlowTransform, LipschitzMLP, LogDet, ResFlowTransform
from impflow_zoo.numerics.probes import Probes

SERIES = ("solve", "roulette")
every_series = pytest.mark.parametrize("series", SERIES)


def unbiased_draws(block, row, calls, copies):
    """Means over one call each of value and gradients, by the input and by the first weight."""
    draws = []
    weight = next(block.parameters())
    for _ in range(calls):
        x = row.expand(copies, -1).clone().requires_grad_()
        _, logabsdet = block(x)
        by_input, by_weight = torch.autograd.grad(logabsdet.sum(), [x, weight])
        value = logabsdet.detach().mean().view(1)
        draws.append(torch.cat((value, by_input.mean(0), by_weight.flatten() / copies)))
    return torch.stack(draws)


def assert_unbiased(kind, series, calls, copies=20):
    nets = [LipschitzMLP(3, (6,), "lipswish", 0.6) for _ in range(2)]
    block = ResFlowTransform(nets[0]) if kind == "resflow" else ImpFlowTransform(*nets)
    tighten(block)
    block.double().eval()
    row = torch.randn(1, 3, dtype=torch.float64)
    block.logdet = LogDet("exact")
    (exact,) = unbiased_draws(block, row, calls=1, copies=1)
    block.logdet = LogDet("unbiased", series=series)
    draws = unbiased_draws(block, row, calls, copies)
    error = draws.std(dim=0) / math.sqrt(calls)
    assert ((draws.mean(dim=0) - exact).abs() <= 4 * error + 1e-9).all()
    # The errors are small enough for the comparison to mean something.
    assert error.norm() < 0.1 * exact.norm()


@every_series
@pytest.mark.parametrize("kind", ["resflow", "impflow"])
def test_the_unbiased_estimator(kind, series):
    assert_unbiased(kind, series, calls=100, copies=60)


@pytest.mark.slow
@every_series
@pytest.mark.parametrize("kind", ["resflow", "impflow"])
def test_the_unbiased_estimator_with_many_draws(kind, series):
    assert_unbiased(kind, series, calls=10_000)


@every_series
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_unbiased_is_random_and_obeys_torch_seed(series, training):
    block = build("impflow-sin", LogDet("unbiased", series=series)).train(training)
    block(draw("impflow-sin")[0])  # the power vectors settle
    x, _ = draw("impflow-sin")
    torch.manual_seed(5)
    first, second = block(x)[1], block(x)[1]
    torch.manual_seed(5)
    again = block(x)[1]
    assert (first != second).any()
    torch.testing.assert_close(first, again, rtol=1e-6, atol=1e-6)


def test_fixed_modes_draw_nothing():
    x, _ = draw("impflow-sin")
    state = torch.get_rng_state()
    for mode in ("exact", "truncated"):
        build_state = torch.get_rng_state()
        block = build("impflow-sin", mode)
        torch.set_rng_state(build_state)
        block(x), block.inverse(x)
    assert torch.equal(torch.get_rng_state(), state)


@every_series
@pytest.mark.parametrize("row", [0, 7])
def test_a_loss_on_one_row_gives_that_rows_gradient(series, row):
    """Whatever the others are; a loss on row 7 alone is no rare thing with weighted samples."""
    features = 4
    block = ResFlowTransform(UserNet(features), LogDet("unbiased", series=series)).double()
    x = torch.randn(9, features, dtype=torch.float64)
    parameters = list(block.parameters())
    mean = [torch.zeros_like(p) for p in parameters]
    draws = 150
    squares = [torch.zeros_like(p) for p in parameters]
    for _ in range(draws):
        grads = torch.autograd.grad(block(x)[1][row], parameters)
        for m, s, g in zip(mean, squares, grads, strict=True):
            m += g / draws
            s += g**2 / draws
    block.logdet = LogDet("exact")
    expected = torch.autograd.grad(block(x)[1][row], parameters)
    for m, s, e in zip(mean, squares, expected, strict=True):
        error = ((s - m**2).clamp(min=0) / draws).sqrt()
        assert e.norm() > 0
        assert ((m - e).abs() <= 4 * error + 1e-9).all()


@every_series
def test_weights_of_rows_weigh_their_gradients(series):
    """With the same probes the gradient of a weighted sum is the weighted sum of gradients."""
    block = build("resflow-sin", LogDet("unbiased", series=series))
    x, _ = draw("resflow-sin", 6)
    weights = torch.randn(6, dtype=torch.float64)
    parameters = [layer.weight for layer in block.net.layers]

    def gradient(loss):
        torch.manual_seed(3)
        return torch.autograd.grad(loss(block(x)[1]), parameters)

    weighted = gradient(lambda logabsdet: (weights * logabsdet).sum())
    single = [gradient(lambda logabsdet, i=i: logabsdet[i]) for i in range(6)]
    for i, grad in enumerate(weighted):
        total = sum(w * grads[i] for w, grads in zip(weights, single, strict=True))
        torch.testing.assert_close(grad, total, rtol=1e-9, atol=1e-12)


def test_roulette_weighs_its_late_terms_right():
    """For `J = -0.6` only the stopping time is random: the mean is known to two per cent."""
    slope = torch.tensor([[-0.6]], dtype=torch.float64)
    settings = LogDet("unbiased", series="roulette")
    block = ResFlowTransform(Linear(slope, lipschitz=0.6), settings)
    draws = []
    for _ in range(1500):
        value = block(torch.zeros(1, 1, dtype=torch.float64))[1]
        (grad,) = torch.autograd.grad(value, block.net.matrix)
        draws.append([value.item(), grad.item()])
    draws = torch.tensor(draws, dtype=torch.float64)
    exact = torch.tensor([math.log(0.4), 1 / 0.4], dtype=torch.float64)
    error = draws.std(dim=0) / math.sqrt(len(draws))
    assert (error < 0.02 * exact.abs()).all()
    assert ((draws.mean(dim=0) - exact).abs() <= 4 * error).all()


@pytest.mark.parametrize("kappa", [0.9, 0.99])
def test_the_solve_series_keeps_its_tolerance(kappa):
    """Given its probe, the value is `v^T log(I + J) v` and the solution `(I + J)^-T v`."""
    features = 30
    matrix = contraction(features, kappa)
    x = torch.randn(3, features, dtype=torch.float64)
    block = ResFlowTransform(Linear(matrix.clone()), LogDet("unbiased", rtol=1e-10))
    torch.manual_seed(1)
    logabsdet = block(x)[1]
    torch.manual_seed(1)
    v = Probes().fresh(x)
    eigenvalues, vectors = torch.linalg.eig(torch.eye(features).double() + matrix)
    log = (vectors @ eigenvalues.log().diag() @ torch.linalg.inv(vectors)).real
    torch.testing.assert_close(logabsdet, ((v @ log) * v).sum(1), rtol=0, atol=1e-7)
    (grad,) = torch.autograd.grad(logabsdet.sum(), block.net.matrix)
    u = torch.linalg.solve((torch.eye(features).double() + matrix).mT, v.mT).mT
    torch.testing.assert_close(grad, u.mT @ v, rtol=1e-7, atol=1e-7)
