"""Laws of behaviour: the caller's tensors, modes, copies, empty batches, half precision."""

from __future__ import annotations

import copy
import pickle
from contextlib import AbstractContextManager

import pytest
import torch
from torch.testing import assert_close

from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.testing.case import (
    BlockCase,
    CaseLaws,
    eval_and_train,
    every_direction,
    every_mode,
    values,
)

__all__ = ["ContractLaws"]


class ContractLaws(CaseLaws):
    """How a block behaves, whatever it computes."""

    @every_mode
    @eval_and_train
    def test_the_callers_tensors_are_left_alone(
        self, block_case: BlockCase, logdet: str | LogDet, training: bool
    ) -> None:
        block = block_case.build(logdet).train(training)
        x, context = block_case.draw()
        tensors = [t for t in (x, context, *block.parameters()) if t is not None]
        before = [t.detach().clone() for t in tensors]
        flags = [(t.requires_grad, t._version) for t in tensors]
        z, logabsdet = block(x, context)
        sample, _ = block.inverse(x, context)
        inputs = x.clone().requires_grad_()
        back, back_logabsdet = block.inverse(inputs, context)
        torch.autograd.grad(back.sum() + back_logabsdet.sum(), inputs)
        for t, old, flag in zip(tensors, before, flags, strict=True):
            assert torch.equal(t, old)
            assert (t.requires_grad, t._version) == flag
            assert t.grad is None
        assert z.requires_grad
        assert logabsdet.requires_grad
        assert sample.requires_grad

    @every_mode
    @every_direction
    @pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
    def test_without_gradients(
        self,
        block_case: BlockCase,
        logdet: str | LogDet,
        direction: str,
        guard: type[AbstractContextManager],
    ) -> None:
        block = block_case.build(logdet)
        x, context = block_case.draw()
        with guard():
            torch.manual_seed(1)
            made_here = (x * 1, None if context is None else context * 1)
            z, logabsdet = getattr(block, direction)(*made_here)
            alone = values(block, direction)(x * 1, context)
        assert not any(t.requires_grad for t in (z, logabsdet, alone))
        torch.manual_seed(1)
        expected, expected_logabsdet = getattr(block, direction)(x, context)
        assert_close(z, expected)
        assert_close(alone, expected)
        assert_close(logabsdet, expected_logabsdet)
        torch.manual_seed(1)
        assert_close(getattr(block, direction)(*made_here)[0], expected)  # used outside

    @pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict"])
    def test_copies_agree_and_are_independent(self, block_case: BlockCase, way: str) -> None:
        block = block_case.build()
        x, context = block_case.draw()
        z, logabsdet = block(x, context)
        if way == "deepcopy":
            clone = copy.deepcopy(block)
        elif way == "pickle":
            try:
                clone = pickle.loads(pickle.dumps(block))
            except (pickle.PicklingError, AttributeError):
                pytest.skip("the block is not defined at the top of a module")
        else:
            clone = block_case.build()
            clone.load_state_dict(block.state_dict())
        for copied, original in zip(clone(x, context), (z, logabsdet), strict=True):
            assert torch.equal(copied, original)
        with torch.no_grad():
            for p in clone.parameters():
                p.mul_(0.5)
        assert not torch.equal(clone(x, context)[0], z)
        assert torch.equal(block(x, context)[0], z)

    @every_mode
    @every_direction
    @eval_and_train
    def test_no_rows(
        self, block_case: BlockCase, logdet: str | LogDet, direction: str, training: bool
    ) -> None:
        block = block_case.build(logdet).train(training)
        x, context = block_case.draw(0)
        x.requires_grad_()
        z, logabsdet = getattr(block, direction)(x, context)
        assert z.shape == x.shape
        assert logabsdet.shape == (0,)
        (z.sum() + logabsdet.sum()).backward()
        assert x.grad is not None
        assert x.grad.shape == x.shape

    @every_mode
    @every_direction
    def test_one_row(self, block_case: BlockCase, logdet: str | LogDet, direction: str) -> None:
        block = block_case.build(logdet)
        x, context = block_case.draw(1)
        z, logabsdet = getattr(block, direction)(x, context)
        assert z.shape == x.shape
        assert logabsdet.shape == (1,)
        assert z.isfinite().all()
        assert logabsdet.isfinite().all()

    @every_mode
    @every_direction
    def test_frozen_parameters(
        self, block_case: BlockCase, logdet: str | LogDet, direction: str
    ) -> None:
        block = block_case.build(logdet)
        x, context = block_case.draw()
        inputs = x.clone().requires_grad_()
        torch.manual_seed(1)
        free = sum(t.sum() for t in getattr(block, direction)(inputs, context))
        (expected,) = torch.autograd.grad(free, inputs)
        block.requires_grad_(requires_grad=False)
        z, logabsdet = getattr(block, direction)(x, context)
        assert not z.requires_grad
        assert not logabsdet.requires_grad
        torch.manual_seed(1)
        frozen = sum(t.sum() for t in getattr(block, direction)(inputs, context))
        assert_close(torch.autograd.grad(frozen, inputs)[0], expected)

    @every_mode
    @every_direction
    @pytest.mark.parametrize("narrow", [False, True], ids=["float32-input", "bfloat16-input"])
    def test_autocast(
        self,
        block_case: BlockCase,
        logdet: str | LogDet,
        direction: str,
        narrow: bool,
        device: torch.device,
    ) -> None:
        block = block_case.build(logdet, dtype=torch.float32, device=device)
        x, context = block_case.draw(dtype=torch.float32, device=device)
        x = x.bfloat16() if narrow else x
        inputs = x.clone().requires_grad_()
        torch.manual_seed(1)
        expected, expected_logabsdet = getattr(block, direction)(x.float(), context)
        torch.manual_seed(1)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            z, logabsdet = getattr(block, direction)(inputs, context)
        assert z.dtype == logabsdet.dtype == torch.float32
        assert_close(z, expected)  # densities are those of the parameters' type
        assert_close(logabsdet, expected_logabsdet)
        (z.sum() + logabsdet.sum()).backward()
        assert inputs.grad is not None
        assert inputs.grad.dtype == inputs.dtype
        assert inputs.grad.isfinite().all()
        assert all(p.grad is not None for p in block.parameters())

    @every_direction
    def test_rows_that_are_no_numbers_are_refused(
        self, block_case: BlockCase, direction: str
    ) -> None:
        block = block_case.build()
        for bad in (torch.nan, torch.inf):
            x, context = block_case.draw()
            x[3] = bad
            with pytest.raises(ValueError, match="inputs with NaN or infinity in 1 of 5 rows: 3"):
                getattr(block, direction)(x, context)
