"""Laws of `torch.func`: its transforms of a block give what plain autograd gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.testing import assert_close

from impflow_zoo.testing.case import (
    BlockCase,
    CaseLaws,
    every_direction,
    jacobian,
)
from impflow_zoo.transforms.base import ResidualBlock

__all__ = ["FuncLaws"]


# torch's forward mode makes some of its rules by it.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
class FuncLaws(CaseLaws):
    """`grad`, `jvp`, `jacrev`, `jacfwd`, `vmap` and `functional_call`, of exact log-determinants.

    In training mode the norms of layers are those of one step of power iteration, within transforms
    those of many. Where one step is not enough, override the fixture `training` by False.
    """

    @pytest.fixture(params=[False, True], ids=["eval", "train"])
    def training(self, request: pytest.FixtureRequest) -> bool:
        """The modes of the block."""
        mode: bool = request.param
        return mode

    @every_direction
    def test_derivatives_by_rows(
        self, block_case: BlockCase, direction: str, training: bool
    ) -> None:
        block, rows = _built(block_case, training=training)
        x, *context = rows
        weights = torch.randn(len(x), dtype=x.dtype)

        def loss(x: Tensor) -> Tensor:
            return _loss(getattr(block, direction)(x, *context), weights)

        inputs = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(inputs), inputs)
        _close(grad(loss)(x), expected)
        tangent = torch.randn_like(x)
        _close(jvp(loss, (x,), (tangent,))[1], (expected * tangent).sum())

    @every_direction
    def test_jacobians_of_rows(self, block_case: BlockCase, direction: str, training: bool) -> None:
        block, rows = _built(block_case, training=training)
        x, *context = rows

        def answer(x: Tensor, *context: Tensor) -> Tensor:
            value, logabsdet = getattr(block, direction)(x, *context)
            return torch.cat((value.flatten(1), logabsdet[:, None]), dim=1)

        def one(*row: Tensor) -> Tensor:
            return answer(*(t[None] for t in row))[0]

        expected = jacobian(lambda x: answer(x, *context), x)
        for transform in (jacrev, jacfwd):
            found = vmap(transform(one))(*rows)
            _close(found.flatten(2).detach(), expected)

    @every_direction
    def test_rows_one_by_one(self, block_case: BlockCase, direction: str, training: bool) -> None:
        block, rows = _built(block_case, training=training)

        def one(*row: Tensor) -> list[Tensor]:
            return [t[0] for t in getattr(block, direction)(*(t[None] for t in row))]

        _close(list(vmap(one)(*rows)), list(getattr(block, direction)(*rows)))

    @every_direction
    def test_derivatives_by_parameters(
        self, block_case: BlockCase, direction: str, training: bool
    ) -> None:
        fresh, rows = _built(block_case, training=training)
        used = copy.deepcopy(fresh)
        weights = torch.randn(len(rows[0]), dtype=rows[0].dtype)
        value = _loss(getattr(used, direction)(*rows), weights)
        parameters = list(used.parameters())
        expected = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        for block in (fresh, used):
            before = copy.deepcopy(block.state_dict())
            called = _Called(block, direction)
            state = {name: p.detach() for name, p in called.named_parameters()}

            def loss(state: dict[str, Tensor], called: _Called = called) -> Tensor:
                return _loss(functional_call(called, state, rows), weights)

            _close(list(grad(loss)(state).values()), list(expected))
            tangents = {name: torch.randn_like(p) for name, p in state.items()}
            products = zip(tangents.values(), expected, strict=True)
            slope = jvp(loss, (state,), (tangents,))[1]
            _close(slope, torch.stack([(a * b).sum() for a, b in products]).sum())
            _close(block.state_dict(), before)

    @every_direction
    def test_blocks_side_by_side(
        self, block_case: BlockCase, direction: str, training: bool
    ) -> None:
        (first, rows), (second, _) = (_built(block_case, training=training) for _ in range(2))
        called = [_Called(block, direction) for block in (first, second)]
        state = stack_module_state([*called])

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> list[Tensor]:
            return list(functional_call(called[0], (parameters, buffers), rows))

        expected = [torch.stack(parts) for parts in zip(*(c(*rows) for c in called), strict=True)]
        _close(vmap(one)(*state), expected)

    @every_direction
    def test_second_derivatives(self, block_case: BlockCase, direction: str) -> None:
        block, rows = _built(block_case, training=False)
        x, *context = rows
        weights, tangent = torch.randn(len(x), dtype=x.dtype), torch.randn_like(x)

        def slope(x: Tensor) -> Tensor:
            return grad(lambda x: _loss(getattr(block, direction)(x, *context), weights))(x)

        step = 1e-5
        difference = (slope(x + step * tangent) - slope(x - step * tangent)) / (2 * step)
        found = jvp(slope, (x,), (tangent,))[1]
        assert_close(found, difference, rtol=1e-5, atol=1e-5)


class _Called(torch.nn.Module):
    """A block that is called in one of its directions."""

    def __init__(self, block: ResidualBlock, direction: str) -> None:
        super().__init__()
        self.block, self.direction = block, direction

    def forward(self, *rows: Tensor) -> tuple[Tensor, Tensor]:
        answer: tuple[Tensor, Tensor] = getattr(self.block, self.direction)(*rows)
        return answer


def _built(case: BlockCase, *, training: bool) -> tuple[ResidualBlock, tuple[Tensor, ...]]:
    """A block, and a few rows with their contexts if it takes some."""
    x, context = case.draw(3)
    return case.build().train(training), (x,) if context is None else (x, context)


def _loss(answer: tuple[Tensor, Tensor], weights: Tensor) -> Tensor:
    """A number that depends on every entry of an answer in a way of its own."""
    value, logabsdet = answer
    return (value.flatten(1).sin().sum(dim=1) + logabsdet) @ weights


def _close(found: object, expected: object) -> None:
    assert_close(found, expected, rtol=1e-8, atol=1e-8)
