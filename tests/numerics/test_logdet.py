"""The log-determinant `log det(I + J)`: bounds, estimators, probes, what listeners hear."""

from __future__ import annotations

import math

import pytest
import torch
from support.blocks import (
    KAPPA,
    UserNet,
    build,
    dense_logdet,
    draw,
    jacobian,
    linearize,
    reported,
    tighten,
)
from torch import nn

from impflow_zoo import ImpFlowTransform, LipschitzMLP, LogDet, NumericalWarning, ResFlowTransform
from impflow_zoo.numerics.estimate import truncation_bound
from impflow_zoo.numerics.logdet import NoContractionError
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.report import Report
from impflow_zoo.numerics.residual import ResidualMap
from impflow_zoo.numerics.seeds import mix
from impflow_zoo.transforms.binding import bind

SERIES = ("solve", "roulette")
every_series = pytest.mark.parametrize("series", SERIES)


class Linear(nn.Module):
    """`g(x) = A x`, whose log-determinant is known and the same everywhere."""

    def __init__(self, matrix, lipschitz=None):
        super().__init__()
        self.matrix = nn.Parameter(matrix)
        self.lipschitz = lipschitz

    def forward(self, x):
        return x @ self.matrix.mT


def contraction(features, kappa):
    """A random matrix of 2-norm `kappa`."""
    matrix = torch.randn(features, features, dtype=torch.float64)
    return kappa * matrix / torch.linalg.matrix_norm(matrix, 2)


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
def test_the_tail_is_infinite_where_the_series_does_not_converge():
    net = Linear(-torch.eye(3, dtype=torch.float64))
    block = ResFlowTransform(net, LogDet("truncated", n_terms=5))
    (estimate,) = reported(block, torch.randn(1, 3).double()).logdets
    assert estimate.bias.tail == math.inf


def test_the_spread_of_the_probes_is_reported():
    net = Linear(contraction(5, 0.6))
    x = torch.randn(1, 5, dtype=torch.float64)
    (estimate,) = reported(ResFlowTransform(net, LogDet("truncated", n_probes=400)), x).logdets
    one_by_one = torch.stack(
        [ResFlowTransform(net, LogDet("truncated", n_probes=1, seed=s))(x)[1] for s in range(400)]
    )
    variance = estimate.variance
    assert variance.shape == (1,)
    assert variance.item() == pytest.approx(one_by_one.var().item() / 400, rel=0.3)


def test_more_probes_and_terms_come_closer():
    net = Linear(contraction(8, 0.7))
    x = torch.randn(1, 8, dtype=torch.float64)
    exact = ResFlowTransform(net, "exact")(x)[1]
    settings = LogDet("truncated", n_terms=60, n_probes=1000)
    (estimate,) = reported(ResFlowTransform(net, settings), x).logdets
    assert (estimate.value - exact).abs() <= 4 * estimate.variance.sqrt()
    assert estimate.variance.sqrt() < 0.05


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
    with pytest.raises(NoContractionError, match=r"det\(I \+ J\) <= 0 in 2 of 3 rows"):
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


# --- unbiased -------------------------------------------------------------------------------------


def unbiased_draws(block, row, calls, copies=20):
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


def assert_unbiased(kind, series, calls):
    nets = [LipschitzMLP(3, (6,), "lipswish", 0.6) for _ in range(2)]
    block = ResFlowTransform(nets[0]) if kind == "resflow" else ImpFlowTransform(*nets)
    tighten(block)
    block.double().eval()
    row = torch.randn(1, 3, dtype=torch.float64)
    block.logdet = LogDet("exact")
    (exact,) = unbiased_draws(block, row, calls=1, copies=1)
    block.logdet = LogDet("unbiased", series=series)
    draws = unbiased_draws(block, row, calls)
    error = draws.std(dim=0) / math.sqrt(calls)
    assert ((draws.mean(dim=0) - exact).abs() <= 4 * error + 1e-9).all()
    # The errors are small enough for the comparison to mean something.
    assert error.norm() < 0.1 * exact.norm()


@every_series
@pytest.mark.parametrize("kind", ["resflow", "impflow"])
def test_the_unbiased_estimator(kind, series):
    assert_unbiased(kind, series, calls=300)


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
    draws = 400
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


# --- probes ---------------------------------------------------------------------------------------


def test_probes_are_signs():
    like = torch.empty(3, 2, 4, 4)
    for probe in (Probes().fresh(like), Probes().seeded(like, 1)):
        assert probe.shape == like.shape
        assert probe.dtype == like.dtype
        assert set(probe.flatten().tolist()) == {-1.0, 1.0}


def test_seeded_probes_depend_on_the_seed_alone():
    like = torch.empty(5, 64)
    torch.manual_seed(1)
    probe = Probes().seeded(like, 3, 0)
    torch.manual_seed(2)
    assert torch.equal(probe, Probes().seeded(like, 3, 0))
    assert torch.equal(probe[:2], Probes().seeded(like[:2], 3, 0))
    assert torch.equal(probe.double(), Probes().seeded(like.double(), 3, 0))
    assert (probe == probe[0]).all()  # one probe set for all rows
    for other in ((3, 1), (4, 0), (3,)):
        assert not torch.equal(probe, Probes().seeded(like, *other))


def test_keyed_probes_depend_on_the_index_of_the_row():
    like = torch.empty(4, 64)
    probe = Probes(range(10, 14)).seeded(like, 3, 0)
    some = Probes([13, 11]).seeded(like[:2], 3, 0)
    assert torch.equal(some, probe[[3, 1]])
    assert len(torch.unique(probe, dim=0)) == 4
    assert Probes([]).seeded(like[:0], 3, 0).shape == (0, 64)
    assert torch.equal(Probes().seeded(like, 3, 0)[0], Probes().seeded(like, 3, 0)[1])


def test_keys_make_a_mean_independent_of_the_batches():
    block = build("impflow-sin", "truncated")
    x, _ = draw("impflow-sin", 12)
    whole = block.run(x, probes=Probes(range(12)))[1]
    parts = []
    for start in (0, 5, 10):
        rows = range(start, min(start + 5, 12))
        parts.append(block.run(x[rows.start : rows.stop], probes=Probes(rows))[1])
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-14)
    assert (whole - block(x)[1]).abs().max() > 1e-6


def test_keys_and_rows_must_match():
    with pytest.raises(ValueError, match="3 keys, the batch 2 rows"):
        Probes(range(3)).seeded(torch.empty(2, 2), 0)


def test_seeds_are_mixed_well():
    seeds = {mix(a, b) for a in range(100) for b in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= s < 2**63 for s in seeds)
    assert mix(1, 2) != mix(2, 1)


def test_nets_of_a_block_have_probes_of_their_own():
    """Else the errors of the two log-determinants of tied nets would cancel, or add."""
    net = LipschitzMLP(6, (8,), "sin", KAPPA).double().eval()
    x = torch.randn(2, 6, dtype=torch.float64)
    maps = (ResidualMap(bind(net, None), logdet=LogDet("truncated"), salt=s) for s in (0, 1))
    one, other = (r.value_and_logdet(x)[1] for r in maps)
    assert (one != other).all()


def test_settings_with_a_seed_of_their_own():
    settings = LogDet("truncated", n_terms=3, seed=5)
    other = settings.seeded(2)
    assert other.seed == mix(5, 2)
    assert (other.mode, other.n_terms) == ("truncated", 3)


# --- events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logdet", "mode"),
    [
        ("exact", "exact"),
        ("truncated", "truncated"),
        ("unbiased", "unbiased"),
        (LogDet("unbiased", series="roulette"), "unbiased"),
    ],
    ids=["exact", "truncated", "unbiased", "roulette"],
)
def test_a_report_holds_roots_and_logdets(logdet, mode):
    block = build("impflow-sin", logdet)
    x, _ = draw("impflow-sin", 3)
    report = reported(block, x)
    assert [len(root.value) for root in report.roots] == [3]
    assert [estimate.mode for estimate in report.logdets] == [mode, mode]
    for estimate in report.logdets:
        assert estimate.variance.shape == (3,)
        assert (estimate.bias is None) == (mode == "unbiased")
        assert (estimate.products > 0) == (mode == "unbiased")
    report = Report()
    block.run(x, want_logdet=False, report=report)
    assert (len(report.roots), len(report.logdets)) == (1, 0)


def test_a_report_changes_no_answer():
    block = build("impflow-sin", "truncated")
    x, _ = draw("impflow-sin")
    silent = block(x)[1]
    assert torch.equal(block.run(x, report=Report())[1], silent)


@pytest.mark.parametrize("mode", ["auto", "truncated"])
def test_a_report_adds_nothing_to_the_graph(mode):
    net, x = nn.Linear(80, 80), torch.randn(2, 80)
    net.weight.data.copy_(-0.9 * torch.eye(80))

    def saved(report):
        found = []

        def pack(tensor):
            found.append(tensor)
            return tensor

        block = ResidualMap(bind(net, None), logdet=LogDet(mode, n_probes=1), report=report)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            block.value_and_logdet(x)
        return len(found)

    assert saved(Report()) == saved(None)


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
