"""Rows that Krylov spaces are slow for: what they come to, and that others know nothing of them."""

from __future__ import annotations

import pytest
import torch
from support.blocks import linearize
from torch import Tensor, nn

from impflow_zoo import LogDet, ResFlowTransform, Solver
from impflow_zoo.numerics.adjoint import solve_transposed
from impflow_zoo.numerics.folded import FoldedModule
from impflow_zoo.numerics.krylov import arnoldi, solve_linear
from impflow_zoo.numerics.logdet import NoContractionError
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.residual import ResidualMap
from impflow_zoo.numerics.solver import NumericalWarning, SolverError, Status

every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)


class Turning(nn.Module):
    """`kappa x` moved on by one feature: no matrix is slower for a Krylov space."""

    def __init__(self, kappa: float) -> None:
        super().__init__()
        self.kappa = nn.Parameter(torch.tensor(kappa, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.kappa * x.roll(1, dims=1)

    def system(self, features: int) -> Tensor:
        """`(I + J)^T`."""
        identity = torch.eye(features, dtype=torch.float64)
        return identity + self.kappa.detach() * identity.roll(1, dims=0).mT


def each_row(matrices: Tensor):
    return lambda v: (matrices @ v[..., None])[..., 0]


@every_dtype
def test_a_row_that_diverges_beside_a_slow_one_is_nan(dtype: torch.dtype) -> None:
    slow, _ = torch.linalg.qr(torch.randn(100, 100, dtype=dtype))
    matrices = torch.stack((-2 * torch.eye(100, dtype=dtype), 0.99 * slow))
    space = arnoldi(each_row(matrices), torch.randn(2, 100, dtype=dtype), 1e-3)
    diverged, fine = space.log_form(1e-6).tolist()
    assert diverged != diverged
    assert fine == fine


def test_evaluation_names_it_no_contraction() -> None:
    turned, _ = torch.linalg.qr(torch.randn(100, 100))

    def net(x: Tensor) -> Tensor:
        return torch.where(x[:, :1] > 0, -2 * x, 0.99 * x @ turned)

    x = torch.rand(2, 100) * torch.tensor([[1.0], [-1.0]])
    with pytest.raises(NoContractionError, match="1 of 2 rows"):
        ResidualMap(FoldedModule(net)).value_and_logdet(x)


@pytest.mark.parametrize("features", [100, 700])
@pytest.mark.parametrize("kappa", [0.9, 0.95, 0.99])
def test_the_unbiased_gradient_of_a_probe_keeps_its_tolerance(kappa: float, features: int) -> None:
    net, x = Turning(kappa), torch.randn(2, features, dtype=torch.float64)
    block = ResFlowTransform(net, LogDet("unbiased", rtol=1e-4)).train()
    torch.manual_seed(3)
    (found,) = torch.autograd.grad(block(x)[1].sum(), [net.kappa])
    torch.manual_seed(3)
    probe = Probes().fresh(x)
    u = torch.linalg.solve(net.system(features), probe.mT).mT
    terms = (u * probe.roll(1, dims=1)).sum(1)
    # |u - its approximation| <= rtol |v| / (1 - kappa), and the product with a probe adds |v|.
    assert float(found) == pytest.approx(float(terms.sum()), abs=2e-4 * features / (1 - kappa))


def test_a_gradient_that_is_not_found_is_told() -> None:
    x = torch.randn(1, 700, dtype=torch.float64)
    block = ResFlowTransform(Turning(0.9999), LogDet("unbiased", rtol=1e-8))
    with pytest.raises(SolverError, match=r"gradient of log det.* 1 of 1 rows"):
        block.eval()(x)
    with pytest.warns(NumericalWarning, match=r"tolerance 1\.00e-08 after \d+ products"):
        block.train()(x)


def test_a_row_knows_nothing_of_a_slower_one_beside_it() -> None:
    turning = torch.eye(100, dtype=torch.float64).roll(1, dims=0)
    matrices = torch.stack((0.9 * turning, 0.99 * turning))
    v = torch.randn(2, 100, dtype=torch.float64)
    both, residual, _ = solve_linear(each_row(matrices), v, 1e-6)
    alone, _, products = solve_linear(each_row(matrices[:1]), v[:1], 1e-6)
    assert products > 60  # it starts anew
    assert residual[0] <= 1e-6
    torch.testing.assert_close(both[:1], alone, rtol=0, atol=1e-12)


def test_few_features_are_solved_densely_before_products_cost_more() -> None:
    net, v = Turning(0.99), torch.randn(3, 100, dtype=torch.float64)
    solved = solve_transposed(linearize(net, torch.randn_like(v)), v, 1e-6)
    assert not solved.failed.any()
    assert solved.products <= 121
    torch.testing.assert_close(solved.u @ net.system(100).mT, v)


@pytest.mark.parametrize("method", ["auto", "fixed_point", "anderson", "broyden"])
def test_a_row_without_a_root_does_not_keep_the_batch(method):
    evaluated = []

    def g(w):
        evaluated.append(len(w))
        return torch.where(w.detach()[:, :1].abs() > 50, 1 - w, 0.5 * w.sin())

    y = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    y[7] = 100.0
    found = Solver(method=method).solve(g, y, throw=False)
    assert int((found.status > Status.ROUNDING_FLOOR).sum()) == 1
    assert sum(evaluated) < 25 * len(y)


def test_a_row_close_to_overflow_is_not_found_by_rounding():
    y = torch.full((1, 1), 6e307, dtype=torch.float64)
    with pytest.raises(SolverError):
        Solver().solve(lambda w: 1 - w, y)
