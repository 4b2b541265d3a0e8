"""Laws of the numbers: inverses, log-determinants, gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from torch import Tensor
from torch.testing import assert_close

from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.testing.case import (
    OTHER_WAY,
    TRUNCATED,
    BlockCase,
    CaseLaws,
    check_gradients,
    dense_logdet,
    every_direction,
    every_dtype,
    every_mode,
    fixed_modes,
    values,
)

__all__ = ["ValueLaws"]

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of log-determinants
_DRAWS = 400
QUANTITIES = ("log_prob", "inverse", "decode")


class ValueLaws(CaseLaws):
    """A block computes the right values."""

    @every_mode
    @every_direction
    @every_dtype
    def test_there_and_back(
        self,
        block_case: BlockCase,
        logdet: str | LogDet,
        direction: str,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        block = block_case.build(logdet, dtype=dtype, device=device)
        x, context = block_case.draw(32, dtype=dtype, device=device)
        there, _ = getattr(block, direction)(x, context)
        back, _ = getattr(block, OTHER_WAY[direction])(there, context)
        assert (block_case.length(there - x) > 1e-3).all()
        assert (block_case.length(back - x) <= block_case.rounding(x, there)).all()

    @every_direction
    @every_dtype
    def test_logdet_is_that_of_the_jacobian(
        self, block_case: BlockCase, direction: str, dtype: torch.dtype, device: torch.device
    ) -> None:
        block = block_case.build(device=device)
        x, context = block_case.draw(device=device)
        expected = dense_logdet(lambda x: values(block, direction)(x, context), x)
        _, logabsdet = getattr(copy.deepcopy(block).to(dtype), direction)(
            x.to(dtype), None if context is None else context.to(dtype)
        )
        assert logabsdet.dtype == dtype
        assert logabsdet.shape == (len(x),)
        assert_close(logabsdet.double(), expected, rtol=0, atol=_TOLERANCE[dtype])

    def test_dense_reference(self, block_case: BlockCase, device: torch.device) -> None:
        if block_case.reference is None:
            pytest.skip("no reference given")
        block = block_case.build(device=device)
        x, context = block_case.draw(device=device)
        z, logabsdet = block(x, context)
        expected, expected_logabsdet = block_case.reference(block, x, context)
        assert_close(z, expected, rtol=0, atol=1e-9)
        assert_close(logabsdet, expected_logabsdet, rtol=0, atol=1e-9)

    @fixed_modes
    @every_dtype
    def test_logdets_of_the_two_directions_cancel(
        self,
        block_case: BlockCase,
        logdet: str | LogDet,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        block = block_case.build(logdet, dtype=dtype, device=device)
        x, context = block_case.draw(16, dtype=dtype, device=device)
        z, there = block(x, context)
        _, back = block.inverse(z, context)
        assert (there.abs() > 1e-6).any()
        assert_close(there, -back, rtol=0, atol=_TOLERANCE[dtype])

    @pytest.mark.slow
    @every_direction
    def test_random_logdets_are_right_on_average(
        self, block_case: BlockCase, direction: str
    ) -> None:
        block = block_case.build("unbiased")
        x, context = block_case.draw(1)
        expected = dense_logdet(lambda x: values(block, direction)(x, context), x)
        rows = None if context is None else context.expand(_DRAWS, -1)
        with torch.no_grad():
            draws = getattr(block, direction)(x.expand(_DRAWS, *x.shape[1:]), rows)[1]
        error = draws.std() / _DRAWS**0.5
        assert (draws.mean() - expected[0]).abs() <= 5 * error + 1e-6

    @every_direction
    def test_values_alone_are_the_same_values(self, block_case: BlockCase, direction: str) -> None:
        block = block_case.build("unbiased")
        x, context = block_case.draw()
        assert_close(values(block, direction)(x, context), getattr(block, direction)(x, context)[0])

    @pytest.mark.parametrize(
        ("what", "logdet", "training"),
        [
            *((what, "exact", mode) for what in QUANTITIES for mode in (False, True)),
            ("log_prob", TRUNCATED, False),
            ("inverse", TRUNCATED, False),
        ],
        ids=[
            *(f"{what}-exact-{mode}" for what in QUANTITIES for mode in ("eval", "train")),
            "log_prob-truncated",
            "inverse-truncated",
        ],
    )
    def test_gradients(
        self, block_case: BlockCase, what: str, logdet: str | LogDet, training: bool
    ) -> None:
        """By inputs, contexts and parameters, with a weight of its own for every sample."""
        block = block_case.build(logdet)
        x, context = (None if t is None else t.requires_grad_() for t in block_case.draw(4))
        assert x is not None
        tensors = [t for t in (x, context, *block.parameters()) if t is not None]
        flow = Flow(block, StandardNormal(x.shape[1:])).double().train(training)
        weight, direction = torch.randn(4, dtype=x.dtype), torch.randn_like(x)

        def loss() -> Tensor:
            if what == "log_prob":
                return (weight * flow.log_prob(x, context)).sum()
            if what == "decode":
                return (direction * block.decode(x, context)).sum()
            samples, logabsdet = block.inverse(x, context)
            return (direction * samples).sum() + (weight * logabsdet).sum()

        loss()  # in training mode the power vectors converge before the comparison
        check_gradients(loss, tensors)

    @fixed_modes
    @every_direction
    def test_gradients_in_float32_are_those_in_float64(
        self, block_case: BlockCase, logdet: str | LogDet, direction: str
    ) -> None:
        block = block_case.build(logdet)
        x, context = block_case.draw(4)
        grads = {}
        for dtype in (torch.float64, torch.float32):
            own = copy.deepcopy(block).to(dtype)
            tensors = [None if t is None else t.detach().to(dtype) for t in (x, context)]
            wanted = [t.requires_grad_() for t in tensors if t is not None]
            value, logabsdet = getattr(own, direction)(*tensors)
            loss = value.square().sum() + logabsdet.sum()
            gradients = torch.autograd.grad(loss, [*wanted, *own.parameters()])
            grads[dtype] = torch.cat([g.flatten().double() for g in gradients])
        assert_close(grads[torch.float32], grads[torch.float64], rtol=1e-3, atol=1e-3)

    def test_no_parameter_is_lost_to_the_gradient(self, block_case: BlockCase) -> None:
        block = block_case.build()
        x, context = block_case.draw()
        for samples, logabsdet in (block(x, context), block.inverse(x, context)):
            total = samples.square().sum() + logabsdet.sum()
            grads = torch.autograd.grad(total, list(block.parameters()), allow_unused=True)
            assert all(g is not None for g in grads)
            assert sum(float(g.abs().sum()) for g in grads) > 0

    @fixed_modes
    @every_direction
    def test_rows_know_nothing_of_each_other(
        self, block_case: BlockCase, logdet: str | LogDet, direction: str
    ) -> None:
        block = block_case.build(logdet)
        x, context = block_case.draw(9)
        expected = getattr(block, direction)(x, context)
        order = torch.randperm(9)[:7]
        for rows in (torch.arange(9), order, order[:1]):
            some = None if context is None else context[rows]
            for value, full in zip(getattr(block, direction)(x[rows], some), expected, strict=True):
                assert_close(value, full[rows], rtol=1e-12, atol=1e-14)

    @fixed_modes
    @every_direction
    def test_gradients_know_nothing_of_other_rows(
        self, block_case: BlockCase, logdet: str | LogDet, direction: str
    ) -> None:
        block = block_case.build(logdet)
        x, context = block_case.draw(6)
        x.requires_grad_()
        z, logabsdet = getattr(block, direction)(x, context)
        (grad,) = torch.autograd.grad(z[4].sum() + logabsdet[4], x)
        assert grad[4].abs().sum() > 0
        assert grad[torch.arange(6) != 4].abs().max() == 0
