"""Stated bounds on the errors of roots: never below the error, and not far above it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from support.blocks import UserContextNet, UserNet, build, draw, length
from torch import Tensor, nn

from impflow_zoo import LipschitzMLP, SandwichMLP, Solver, create_model, list_models
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.table_config import TabularConfig
from impflow_zoo.numerics.folded import Negated, fold
from impflow_zoo.numerics.report import Report
from impflow_zoo.numerics.solver import Solution
from impflow_zoo.transforms.base import ResidualBlock

NETS: dict[str, Any] = {
    "spectral": lambda: LipschitzMLP(3, (32, 32), "sin", 0.9),
    "sandwich": lambda: SandwichMLP(3, (32, 32), lipschitz=0.9, frequency=4.0),
    "user": lambda: UserNet(3, 0.9),
}


class Tenth(nn.Module):
    """`a w`, with a parameter that is 0.1 in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.1))

    def forward(self, w: Tensor) -> Tensor:
        return self.a * w


def roots(
    block: ResidualBlock, noise: Tensor, context: Tensor | None
) -> Iterator[tuple[Solution, Tensor]]:
    """The roots that a block takes of noise, and their distances to those of float64."""
    exact = copy.deepcopy(block).double()
    for backwards in (False, True):
        report = Report()
        block.run(noise, context, backwards=backwards, want_logdet=False, report=report)
        steps = [step for step in block.steps if step.inverted != backwards]
        for step, root in zip(steps, report.roots, strict=True):
            net = fold(getattr(exact, step.net), None if context is None else context.double())
            net = net if step.sign == 1 else Negated(net)
            assert root.equation is not None
            reference = Solver().solve(net, root.equation.y.double())
            yield root, length(root.value.double() - reference.value)


def roots_of_model(model: FlowModel, rows: int, scale: float) -> Iterator[tuple[Solution, Tensor]]:
    """The same of all blocks of a model."""
    noise, context = scale * torch.randn(rows, model.config.features), None
    if (size := model.config.context_features) is not None:
        context = model.transform.embed(model.transform.like(torch.randn(rows, size)), noise)
    for block in model.blocks():
        yield from roots(block, noise, context)


# Up to 40 % of these errors exceed `residual / (1 - kappa)`.
@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["impflow-power-plant-given-weather", "resflow-protein-given-features"]
)
def test_roots_of_the_zoo_are_within_their_bounds(name: str) -> None:
    for root, error in roots_of_model(create_model(name), 100, 3.0):
        assert (error <= root.error_bound).all()


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 3.0, 10.0])
def test_all_roots_of_the_zoo_are_within_their_bounds(scale: float) -> None:
    for name in list_models():
        model = create_model(name)
        if not isinstance(model.config, TabularConfig):
            continue
        ratios = []
        for root, error in roots_of_model(model, 1000, scale):
            assert (error <= root.error_bound).all(), name
            ratios.append((root.error_bound / error)[error > 0])
        ratio = torch.cat(ratios)
        print(f"{name}: bound / error {ratio.median():.0f}, at most {ratio.max():.0f}")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["resflow", "impflow", "monotone"])
@pytest.mark.parametrize("net", ["sandwich", "elu-context"])
def test_every_kind_of_block_reports_bounds(kind: str, net: str) -> None:
    block = build(f"{kind}-{net}", dtype=torch.float32)
    found = list(roots(block, *draw(f"{kind}-{net}", 50, dtype=torch.float32)))
    assert len(found) == (1 if kind == "resflow" else 2)
    for root, error in found:
        assert (error <= root.error_bound).all()


@torch.no_grad()
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_bound_lies_between_the_error_and_a_multiple_of_it(name: str, training: bool) -> None:
    net, y = NETS[name]().train(training), 10 * torch.randn(200, 3)
    found = Solver().solve(net, y, kappa=0.9)
    exact = copy.deepcopy(net).eval().double()
    error = length(found.value.double() - Solver().solve(exact, y.double()).value)
    assert (error <= found.error_bound).all()
    assert (found.error_bound <= 1.9 / 0.1 * error + 1e-12).all()


def exact_errors(w: Tensor, y: Tensor, slope: float) -> list[Fraction]:
    """`|w - y / (1 + slope)|` of numbers."""
    pairs = zip(w.flatten().tolist(), y.flatten().tolist(), strict=True)
    return [abs(Fraction(w) - Fraction(right) / (1 + Fraction(slope))) for w, right in pairs]


@torch.no_grad()
def test_a_residual_that_rounds_to_zero_has_a_bound() -> None:
    net, y = Tenth(), torch.rand(200, 1) + 1
    found = Solver().solve(net, y, kappa=0.9)
    assert (found.residual == 0).any()
    errors = exact_errors(found.value, y, net.a.item())
    bounds = found.error_bound.tolist()
    assert all(0 < error <= bound for error, bound in zip(errors, bounds, strict=True))


def test_float64_rounds_too() -> None:
    y = torch.rand(200, 1, dtype=torch.float64) + 1
    found = Solver("fixed_point").solve(lambda w: -0.9 * w, y, kappa=0.9)
    errors = exact_errors(found.value, y, -0.9)
    bounds = found.error_bound.tolist()
    assert all(error <= bound < 1e-11 for error, bound in zip(errors, bounds, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("name", NETS)
def test_asking_for_a_bound_changes_nothing(name: str) -> None:
    net, y = NETS[name]().train(), torch.randn(5, 3)
    before, state = net(y), copy.deepcopy(net.state_dict())
    bound = Solver().solve(net.eval(), y, kappa=0.9).error_bound
    with torch.autocast("cpu", torch.bfloat16):
        found = Solver().solve(net, y, kappa=0.9)
        assert (found.error_bound > bound).all()  # roots of rounded nets
    assert all(torch.equal(state[key], t) for key, t in net.state_dict().items())
    assert torch.equal(net.train()(y), before)


@torch.no_grad()
def test_bounds_of_nets_with_contexts() -> None:
    net, y, context = UserContextNet(3, 0.9), torch.randn(5, 3), torch.randn(5, 3)
    found = Solver().solve(net, y, context, kappa=0.9)
    exact = Solver().solve(copy.deepcopy(net).double(), y.double(), context.double()).value
    assert (length(found.value - exact) <= found.error_bound).all()


def test_rows_that_are_no_numbers_have_no_finite_bound() -> None:
    y = torch.tensor([[1.0], [torch.nan]])
    found = Solver().solve(lambda w: 0.5 * w, y, kappa=0.5, throw=False)
    assert found.error_bound.isfinite().tolist() == [True, False]


@torch.no_grad()
def test_a_function_bound_to_one_type_is_named() -> None:
    matrix = 0.5 * torch.eye(3)
    found = Solver().solve(lambda w: w @ matrix, torch.randn(2, 3), kappa=0.5)
    with pytest.raises(ValueError, match="error bound needs .* torch.float64"):
        _ = found.error_bound
