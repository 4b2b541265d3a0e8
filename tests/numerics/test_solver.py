"""Root finding: `w + g(w) = y`, row by row."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from support.blocks import EPS, length
from support.dealt import crossed

from impflow_zoo import LipschitzMLP, NumericalWarning, Solver, SolverError
from impflow_zoo.numerics.folded import FoldedModule
from impflow_zoo.numerics.methods import METHODS
from impflow_zoo.numerics.search import Status, find_roots

every_method = pytest.mark.parametrize("method", ["auto", *METHODS])
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)
every_size = pytest.mark.parametrize("features", [2, 12, 64])


def turn(angle):
    """A net `0.99 R w`, `R` a rotation by an angle in each plane of two features."""

    def g(w):
        a, b = w[:, 0::2], w[:, 1::2]
        c, s = math.cos(angle), math.sin(angle)
        return 0.99 * torch.stack((c * a - s * b, s * a + c * b), dim=2).flatten(1)

    return g


STIFF = {
    "-0.97": lambda w: -0.97 * w,
    "0.99": lambda w: 0.99 * w,
    "quarter-turn": turn(math.pi / 2),
    "rotation-by-3": turn(3.0),
    "rotation-by-1": turn(1.0),
    "sine": lambda w: 0.99 * torch.sin(3 * w) / 3,
    "steep-tanh": lambda w: -0.97 * torch.tanh(w),
    "mixed": lambda w: torch.linspace(-0.97, 0.99, w.shape[1]).to(w) * w,
}
stiff = pytest.mark.parametrize("g", STIFF.values(), ids=STIFF)


def residual(g, solution, y):
    return length(y - solution.value - g(solution.value))


@stiff
@every_size
@every_dtype
def test_auto_reaches_the_rounding_floor(g, features, dtype, device):
    y = 3 * torch.randn(16, features, dtype=dtype, device=device)
    solution = Solver().solve(g, y)
    assert solution.converged.all()
    assert (residual(g, solution, y) <= 64 * EPS[dtype] * (1 + length(y))).all()
    exact = Solver(max_steps=100_000).solve(lambda w: g(w), y.double(), throw=False).value
    bound = 64 * EPS[dtype] * (1 + length(y) + length(exact)) / 0.03
    assert (length(solution.value - exact) <= bound).all()


@pytest.mark.parametrize(
    ("features", "dtype"),
    crossed({"100": 100, "600": 600}, {"float64": torch.float64, "float32": torch.float32}),
)
def test_a_known_contraction_never_runs_out_of_steps(features, dtype):
    """`0.99 Q w`, `Q` orthogonal: secants learn one direction at a time, a plain step takes 1 %."""
    q = torch.linalg.qr(torch.randn(features, features, dtype=torch.float64))[0].to(dtype)
    y = torch.randn(3, features, dtype=dtype)

    def g(w):
        return 0.99 * w @ q.mT

    solution = Solver().solve(g, y, kappa=0.99)
    size = 1 + length(y) + length(solution.value)  # ten times as long as y
    assert (residual(g, solution, y) <= 64 * EPS[dtype] * size).all()


@every_method
@every_size
def test_known_roots(method, features):
    """`w + a w = y` has the root `y / (1 + a)`."""
    y = torch.randn(8, features, dtype=torch.float64)
    for a in (-0.9, -0.3, 0.0, 0.5, 0.9):
        solution = Solver(method).solve(lambda w, a=a: a * w, y, kappa=0.9)
        error = length(solution.value - y / (1 + a))
        assert (error <= 64 * EPS[y.dtype] * (1 + length(y)) / 0.1).all()


@every_method
@stiff
def test_every_method_says_the_truth(method, g):
    """Solved or not, the residual reported is that of the value returned."""
    y = torch.randn(8, 4, dtype=torch.float64)
    solution = Solver(method, max_steps=60).solve(g, y, throw=False)
    rounding = 64 * EPS[y.dtype] * (1 + length(y) + length(solution.value))
    assert ((solution.residual - residual(g, solution, y)).abs() <= rounding).all()
    tight = solution.status == Status.CONVERGED
    assert (solution.residual <= solution.tolerance)[tight].all()
    assert (solution.residual <= rounding)[solution.status == Status.ROUNDING_FLOOR].all()


@every_method
@pytest.mark.parametrize("features", [1, 2, 12, 64])
@every_dtype
def test_without_a_root_there_is_an_error(method, features, dtype):
    y = torch.randn(5, features, dtype=dtype)
    with pytest.raises(SolverError, match="5 of 5 rows did not converge"):
        Solver(method).solve(lambda w: -w, y)


@every_method
def test_a_root_that_is_there_by_chance_is_taken(method):
    """`w - w = y` has every `w` for a root where `y = 0`, and none elsewhere."""
    y = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    solution = Solver(method).solve(lambda w: -w, y, throw=False)
    assert solution.converged.tolist() == [True, False, True]


@every_method
def test_tolerances_are_kept(method):
    y = torch.randn(8, 12, dtype=torch.float64)
    solution = Solver(method, rtol=1e-3, atol=0.0).solve(lambda w: 0.5 * w.sin(), y)
    assert (solution.status == Status.CONVERGED).all()
    torch.testing.assert_close(solution.tolerance, 1e-3 * length(y))
    assert (solution.residual <= 1e-3 * length(y)).all()
    assert solution.residual.max() > 1e-12  # it stopped there
    tighter = Solver(method, rtol=1e-9).solve(lambda w: 0.5 * w.sin(), y)
    assert (tighter.steps >= solution.steps).all()
    assert tighter.steps.sum() > solution.steps.sum()


def test_default_tolerances():
    for dtype, eps in EPS.items():
        loose = 1e-12 if dtype == torch.float64 else 1e-4
        assert Solver().tolerances(dtype, training=False) == (8 * eps, 8 * eps)
        assert Solver().tolerances(dtype, training=True) == (loose, loose)
        assert Solver(rtol=0.0).tolerances(dtype, training=True) == (8 * eps, 8 * eps)
        assert Solver(backward_rtol=0.0).backward_tolerance(dtype, training=True) == 8 * eps


def test_training_is_looser_and_cheaper():
    y = torch.randn(8, 12)
    training, evaluation = (
        Solver().solve(lambda w: 0.5 * w.sin(), y, training=t) for t in (True, False)
    )
    assert training.steps.sum() < evaluation.steps.sum()
    assert training.residual.max() > evaluation.residual.max()


def test_rows_count_their_own_steps():
    """A row with an easy problem stops early and counts as if it were alone."""
    slope = torch.tensor([[0.0], [0.5], [0.9], [0.1]], dtype=torch.float64)
    y = torch.randn(4, 12, dtype=torch.float64)
    solver = Solver("fixed_point")
    together = solver.solve(lambda w, c: c * w, y, slope)
    assert together.steps[0] == 1
    assert together.steps[0] < together.steps[3] < together.steps[1] < together.steps[2]
    for i in range(4):
        alone = solver.solve(lambda w, c: c * w, y[i : i + 1], slope[i : i + 1])
        assert alone.steps == together.steps[i]
        assert alone.status == together.status[i]
        torch.testing.assert_close(alone.value[0], together.value[i], rtol=1e-12, atol=0)


def test_solved_rows_are_frozen():
    """The net is not evaluated on solved rows for ever: the batch shrinks."""
    sizes = []

    def g(w, slope):
        sizes.append(len(w))
        return slope * w

    slope = torch.tensor([[0.9]] + 15 * [[0.0]], dtype=torch.float64)
    solution = Solver("fixed_point").solve(g, torch.randn(16, 3, dtype=torch.float64), slope)
    assert solution.converged.all()
    assert sizes[0] == 16
    assert sizes.count(16) <= 5
    assert sizes[-1] == 1
    assert len(sizes) == solution.steps.max()


@every_method
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e20, -1e300], ids=str)
def test_a_bad_neighbour_does_no_harm(method, bad):
    def g(w):
        return 0.9 * torch.sin(w.flip(1))

    y = torch.randn(6, 12, dtype=torch.float64)
    alone = Solver(method).solve(g, y)
    spoilt = y.clone()
    spoilt[2, 3] = bad
    solution = Solver(method).solve(g, spoilt, throw=False)
    others = torch.arange(6) != 2
    assert solution.converged[others].all()
    torch.testing.assert_close(solution.value[others], alone.value[others], rtol=1e-12, atol=1e-14)
    assert torch.equal(solution.steps[others], alone.steps[others])
    if not math.isfinite(bad):
        assert solution.status[2] == Status.NOT_FINITE
        assert solution.residual[2] == math.inf
        with pytest.raises(SolverError, match=r"1 of 6 rows .*1: NaN or infinity"):
            Solver(method).solve(g, spoilt)


@every_method
def test_the_best_iterate_is_kept(method):
    """An expansive net leads away from where the search began."""

    def g(w):
        return -3 * torch.sin(2 * w) - 1.0

    y = torch.randn(8, 12, dtype=torch.float64)
    few, more = (Solver(method, max_steps=n).solve(g, y, throw=False) for n in (5, 40))
    floor = 64 * EPS[y.dtype] * (1 + length(y))
    assert (few.residual <= length(g(y)) + floor).all()
    if method != "auto":  # whose methods start from other iterates then; see the next test
        assert (more.residual <= few.residual + floor).all()
    torch.testing.assert_close(few.residual, residual(g, few, y))


@pytest.mark.parametrize("max_steps", [5, 40])
@pytest.mark.parametrize("features", [3, 12])
def test_the_best_iterate_is_kept_over_the_methods_of_auto(features, max_steps):
    """What a method leaves to the next one is no worse afterwards, however far that one strays."""
    y = torch.randn(8, features, dtype=torch.float64)
    legs = Solver(max_steps=max_steps)._legs(features, None, y.dtype, training=False)
    net = FoldedModule(lambda w: -3 * torch.sin(2 * w) - 1.0)
    tolerance = torch.full((8,), 1e-14, dtype=torch.float64)
    with torch.no_grad():
        found = [find_roots(net, y, tolerance, legs[:n])[1] for n in range(1, len(legs) + 1)]
    for before, after in itertools.pairwise(found):
        assert (after <= before).all()


@every_method
@pytest.mark.parametrize(("features", "size"), [(100, 1e38), (2, 3e38)])
def test_rows_whose_length_overflows_are_solved_or_refused(method, features, size):
    torch.manual_seed(0)
    net = LipschitzMLP(features, (8,), lipschitz=0.9, activation="elu").eval()
    y = torch.full((1, features), size)
    solution = Solver(method).solve(net, y, throw=False)
    with torch.no_grad():
        error = ((solution.value + net(solution.value) - y) / y).abs().amax()
    assert float(error) < 1e-4 or not bool(solution.converged)
    assert bool(solution.tolerance.isfinite())


def test_the_step_budget():
    y = torch.randn(3, 12, dtype=torch.float64)
    solution = Solver("fixed_point", max_steps=5).solve(lambda w: 0.99 * w, y, throw=False)
    assert solution.steps.tolist() == [5, 5, 5]
    assert solution.status.tolist() == 3 * [Status.MAX_STEPS]
    assert not solution.converged.any()


def test_the_error_bound():
    y = torch.randn(50, 12, dtype=torch.float64)
    solver = Solver("fixed_point", rtol=1e-3)
    for slope in (-0.9, 0.9):
        solution = solver.solve(lambda w, slope=slope: slope * w, y, kappa=0.9)
        error = length(solution.value - y / (1 + slope))
        assert (error <= solution.error_bound * (1 + 1e-9)).all()
        torch.testing.assert_close(solution.error_bound, solution.residual / (1 - 0.9))
        if slope < 0:  # there the bound is sharp
            torch.testing.assert_close(error, solution.error_bound)


@pytest.mark.parametrize("kappa", [None, 1.0, 1.5])
def test_no_error_bound_without_a_contraction(kappa):
    y = torch.randn(2, 3, dtype=torch.float64)
    assert Solver().solve(lambda w: 0.5 * w, y, kappa=kappa).error_bound is None


def test_the_error_message():
    y = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.3, 0.4]], dtype=torch.float64)
    solver = Solver("fixed_point", rtol=1e-4, atol=0.0, max_steps=4)
    rows = r"2 of 3 rows did not converge \(2: step budget"
    numbers = r"3\.28e\+00, .*5\.00e-04"
    remedies = r"Raise max_steps \(4\).*rtol=, atol=.*fixed_point, anderson, broyden, newton"
    with pytest.raises(SolverError, match=rf"{rows}.*{numbers}\. {remedies}"):
        solver.solve(lambda w: -0.9 * w, y, kappa=0.9)
    check = "Check that the net has a Lipschitz constant below 1"
    with pytest.raises(SolverError, match=rf"{rows}.*{numbers}\. {check}.*{remedies}"):
        solver.solve(lambda w: -0.9 * w, y, kappa=None)


def test_in_training_there_is_a_warning_instead():
    y = torch.randn(3, 12)
    with pytest.warns(NumericalWarning, match="3 of 3 rows did not converge"):
        solution = Solver().solve(lambda w: -w, y, training=True)
    assert not solution.converged.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Solver().solve(lambda w: 0.5 * w, y, training=True)
        Solver().solve(lambda w: -w, y, throw=False)


@every_method
def test_no_rows(method):
    solution = Solver(method).solve(lambda w: 0.5 * w, torch.empty(0, 12))
    assert solution.value.shape == (0, 12)
    assert solution.steps.shape == (0,)
    assert solution.converged.all()


@every_method
def test_nothing_is_recorded_and_nothing_changed(method):
    y = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    before = y.detach().clone()
    solution = Solver(method).solve(lambda w: 0.9 * w.sin(), y)
    assert not solution.value.requires_grad
    assert y.requires_grad
    assert y.grad is None
    assert torch.equal(y, before)


def test_images_keep_their_shape():
    y = torch.randn(4, 3, 5, 5, dtype=torch.float64)

    def g(w):
        assert w.shape[1:] == (3, 5, 5)
        return 0.9 * w.flip(3)

    solution = Solver().solve(g, y)
    assert solution.value.shape == y.shape
    torch.testing.assert_close(solution.value + g(solution.value), y)


def test_slow_contraction_is_handed_over():
    """Plain iteration would take 3,600 evaluations for a rotation of this kind."""
    y = torch.randn(4, 64, dtype=torch.float64)
    assert Solver().solve(turn(3.0), y).steps.max() < 100
    with pytest.raises(SolverError, match="step budget spent"):
        Solver("fixed_point").solve(turn(3.0), y)


def test_fast_contraction_needs_no_jacobian():
    y = torch.randn(4, 64, dtype=torch.float64)
    auto = Solver().solve(lambda w: 0.1 * w.sin(), y)
    plain = Solver("fixed_point").solve(lambda w: 0.1 * w.sin(), y)
    assert torch.equal(auto.steps, plain.steps)
    assert torch.equal(auto.value, plain.value)
