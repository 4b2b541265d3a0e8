"""Evaluation beyond 64 features: what a Krylov space says of `log det(I + J)`, and how well."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from support.blocks import linearize, reported
from support.dealt import crossed
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from impflow_zoo import (
    ImpFlowTransform,
    LipschitzConvNet,
    LipschitzMLP,
    LogDet,
    ResFlowTransform,
)
from impflow_zoo.numerics.folded import Point, TracedPoint
from impflow_zoo.numerics.krylov import arnoldi
from impflow_zoo.numerics.logdet import NoContractionError
from impflow_zoo.testing.case import jacobian

KAPPAS = [0.5, 0.9, 0.99]
TYPES = {"float64": torch.float64, "float32": torch.float32}
every_kappa = pytest.mark.parametrize("kappa", KAPPAS)


def steep_net(kappa: float, size: int = 8, width: int = 16) -> LipschitzConvNet:
    """Layers close to isometries, activations where they are steep: a Jacobian near its bound."""
    net = LipschitzConvNet(3, (size, size), width, lipschitz=kappa)
    with torch.no_grad():
        for layer in net.layers:
            nn.init.dirac_(layer.weight)
            layer.weight.add_(0.03 * torch.randn_like(layer.weight)).mul_(3)
            layer.bias.add_(2)
    return net.double().eval()


def images(n: int, size: int = 8) -> Tensor:
    return 1.5 * torch.randn(n, 3, size, size, dtype=torch.float64)


def orthogonal_probes(like: Tensor) -> Tensor:
    """As many as there are features, `[d, ...]`, so that their forms add up to a trace."""
    features = like.shape[1:].numel()
    basis, _ = torch.linalg.qr(torch.randn(features, features, dtype=like.dtype))
    return basis.view(features, *like.shape[1:])


def at_every_probe(net: nn.Module, x: Tensor) -> tuple[Point, Tensor, float]:
    """A point repeated, one probe for each copy, and its log-determinant."""
    probes = orthogonal_probes(x)
    exact = torch.linalg.slogdet(torch.eye(len(probes)).double() + jacobian(net, x)[0])
    return linearize(net, x.expand_as(probes)), probes, float(exact.logabsdet)


@every_kappa
def test_bias_against_the_dense_logdet_term_by_term(kappa: float) -> None:
    """Without noise of probes: powers of the Jacobian and Krylov spaces side by side."""
    point, probes, exact = at_every_probe(steep_net(kappa), images(1))
    with torch.no_grad():
        power, series, bias = probes, 0.0, {}
        for terms in range(1, 13):
            power = point.vjp(power)
            series += (-1) ** (terms + 1) / terms * float((power * probes).sum())
            krylov = float(arnoldi(point.vjp, probes, 0.0, terms).log_form(1e-15).sum())
            bias[terms] = (abs(series - exact), abs(krylov - exact))
    assert abs(exact) > 5
    for terms, (of_powers, of_krylov) in bias.items():
        assert of_krylov <= 0.3 * of_powers + 1e-9, terms
    # What 12 powers come to takes at most 7 dimensions, and these are good to a 1e-5th of a nat.
    assert bias[7][1] < max(bias[12][0], 1e-9)
    assert bias[7][1] < 1e-5


@every_kappa
def test_one_term_is_the_first_term_and_more_are_right_to_their_degree(kappa: float) -> None:
    """The first `m` terms are those of the power series: seen where later ones vanish."""
    matrix = torch.triu(torch.randn(70, 70, dtype=torch.float64), diagonal=1)
    matrix *= kappa / torch.linalg.matrix_norm(matrix, 2)
    v = torch.randn(1, 70, dtype=torch.float64)
    for terms in (1, 2, 5):
        space = arnoldi(lambda q: q @ matrix, v, 0.0, terms)
        h = space.hessenberg()[0]
        for k in range(1, terms + 1):
            moment = float(v @ torch.linalg.matrix_power(matrix, k) @ v[0])
            found = float(torch.linalg.matrix_power(h, k)[0, 0] * (v @ v[0]))
            assert found == pytest.approx(moment, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("kappa", "dtype"), crossed({str(k): k for k in KAPPAS}, TYPES))
def test_what_auto_reports_of_its_bias_holds(kappa: float, dtype: torch.dtype) -> None:
    net, x = steep_net(kappa), images(4)
    many = LogDet("truncated", n_terms=300, n_probes=2)
    with torch.no_grad():
        full = ResFlowTransform(net, many)(x)[1]
        block = ResFlowTransform(net.to(dtype), LogDet(n_probes=2, n_terms=60)).eval()
        (estimate,) = reported(block, x.to(dtype)).logdets
    found, bias = estimate.value.double(), estimate.bias
    error = float((found - full).abs().mean())
    rounding = 1e-4 if dtype == torch.float32 else 1e-10
    assert estimate.mode == "truncated"
    assert error <= bias.tail + rounding
    assert bias.tail <= (0.1 if dtype == torch.float32 else 1e-6)
    assert float((found - full).abs().amax()) <= bias.bound + rounding
    assert bias.bound < 192 * (-math.log1p(-kappa))  # says more than no term at all


@every_kappa
def test_the_bound_of_a_short_space(kappa: float) -> None:
    """Symmetric operators, whose form is known for every probe."""
    turn = torch.linalg.qr(torch.randn(70, 70, dtype=torch.float64))[0]
    values = torch.linspace(-kappa, 0, 70, dtype=torch.float64)
    matrix = turn @ values.diag() @ turn.mT
    v = torch.sign(torch.randn(5, 70, dtype=torch.float64))
    exact = ((v @ turn).square() * values.log1p()).sum(1)
    bounds = []
    for terms in (1, 2, 4, 8, 16):
        space = arnoldi(lambda q: q @ matrix, v, 0.0, terms)
        error = (space.log_form(1e-15) - exact).abs()
        bounds.append(space.log_form_bound(kappa))
        assert (error <= bounds[-1] + 1e-12).all()
    assert (bounds[-1] <= 0.1 * bounds[0]).all()


def blocks() -> dict[str, nn.Module]:
    return {
        "images": ResFlowTransform(steep_net(0.9, 5, 6)),
        "implicit images": ImpFlowTransform(steep_net(0.9, 5, 6), steep_net(0.9, 5, 6)),
        "rows": ResFlowTransform(LipschitzMLP(70, (40,), "sin", 0.9)),
        "rows of low rank": ImpFlowTransform(
            LipschitzMLP(70, (3,), "sin", 0.9), LipschitzMLP(70, (3,), "sin", 0.9)
        ),
    }


@pytest.fixture(params=blocks(), ids=str)
def block(request: pytest.FixtureRequest) -> nn.Module:
    block = blocks()[request.param].double().eval()
    block.logdet = LogDet(n_probes=2)
    return block


def rows_of(block: nn.Module, n: int) -> Tensor:
    shape = (70,) if hasattr(next(block.children()), "features") else (3, 5, 5)
    return torch.randn(n, *shape, dtype=torch.float64)


def test_an_answer_is_that_of_its_row_alone(block: nn.Module) -> None:
    x = rows_of(block, 7)
    x[2] *= 10  # rows of unlike contraction end their spaces at unlike dimensions
    with torch.no_grad():
        whole = block(x)[1]
        for rows in ([0, 1, 2, 3, 4, 5, 6], [2, 5], [4]):
            torch.testing.assert_close(block(x[rows])[1], whole[rows], rtol=1e-12, atol=1e-12)
        assert block(x[:0])[1].shape == (0,)


def test_the_answer_is_the_same_with_and_without_a_graph(block: nn.Module) -> None:
    x = rows_of(block, 3)
    with_graph = block(x)[1]
    assert with_graph.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(block(x)[1], with_graph, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_answer(block: nn.Module) -> None:
    block.logdet = LogDet(n_probes=1)
    x = rows_of(block, 3).requires_grad_()
    weight = torch.randn(3, dtype=torch.float64)
    assert gradcheck(
        lambda x, *_: (weight * block(x)[1]).sum(),
        (x, *block.parameters()),
        fast_mode=True,
        atol=1e-6,
        rtol=1e-5,
    )


def test_second_derivatives() -> None:
    block = ResFlowTransform(LipschitzMLP(70, (5,), "sin", 0.9), LogDet(n_probes=1))
    x = torch.randn(1, 70, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda x: block.double().eval()(x)[1].sum(), x, fast_mode=True, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_a_space_that_ends_at_once(scale: float) -> None:
    """`J = scale I`: one dimension says all, and the gradient is finite."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x

    block = ResFlowTransform(Scale()).eval()
    value = block(torch.randn(2, 80, dtype=torch.float64))[1]
    assert value.tolist() == pytest.approx([80 * math.log1p(scale)] * 2)
    (grad,) = torch.autograd.grad(value.sum(), block.net.scale)
    assert float(grad) == pytest.approx(2 * 80 / (1 + scale))


@pytest.mark.parametrize("factor", [2.0, -1.5, 1.2])
def test_a_net_that_is_no_contraction_is_refused(factor: float) -> None:
    class Stretch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return factor * x

    block = ResFlowTransform(Stretch()).eval()
    with pytest.raises(NoContractionError, match="diverges in 3 of 3 rows"):
        block(torch.randn(3, 80, dtype=torch.float64))


def products_of(block: nn.Module, x: Tensor) -> int:
    with mock.patch.object(TracedPoint, "vjp", autospec=True, side_effect=TracedPoint.vjp) as vjp:
        block(x)
    return vjp.call_count


def test_it_takes_a_fraction_of_the_products() -> None:
    block, x = ResFlowTransform(steep_net(0.9)).float().eval(), images(2).float()
    assert products_of(block, x) <= 30
    block.logdet = LogDet("truncated")
    assert products_of(block, x) == 80


def test_the_budget_of_terms_is_kept() -> None:
    block = ResFlowTransform(steep_net(0.99), LogDet(n_terms=2, n_probes=1)).eval()
    with torch.no_grad():
        (estimate,) = reported(block, images(2)).logdets
        block.logdet = LogDet("truncated", n_terms=300, n_probes=1)
        full = block(images(2) * 0 + 1)[1]
    assert estimate.value.isfinite().all()
    assert full.isfinite().all()
    assert estimate.bias.tail > 1e-4


@pytest.mark.parametrize(("rank", "dtype"), crossed({"1": 1, "2": 2, "3": 3}, TYPES))
def test_the_gradient_leaves_a_space_that_has_closed(rank: int, dtype: torch.dtype) -> None:
    """A matrix of low rank, far from normal: the probe's space ends, that of its gradient not."""
    basis, _ = torch.linalg.qr(torch.randn(70, 70, dtype=torch.float64))
    net = nn.Linear(70, 70, bias=False).to(dtype)
    with torch.no_grad():
        turned = [0.9 * basis[2 * i] + math.sqrt(0.19) * basis[2 * i + 1] for i in range(rank)]
        weight = sum(torch.outer(basis[2 * i], t) for i, t in enumerate(turned))
        net.weight.copy_(-0.95 * weight)
    x = torch.zeros(2, 70, dtype=dtype)
    gradients = []
    for logdet in (LogDet(n_terms=60), LogDet("truncated", n_terms=200)):
        block = ResFlowTransform(net, logdet).eval()
        (gradient,) = torch.autograd.grad(block(x)[1].sum(), [net.weight])
        gradients.append(gradient)
    difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    # 60 terms of 200: 0.95 * 0.9 to the 60th, a few times over
    assert difference < (1e-3 if dtype == torch.float64 else 2e-3)
