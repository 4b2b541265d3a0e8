"""The kit catches blocks that break a law: one broken block for each."""

from __future__ import annotations

import pytest
import torch
from support.blocks import UserNet
from torch import Tensor

from impflow_zoo import LipschitzMLP, ResFlowTransform
from impflow_zoo.numerics.logdet import NoContractionError
from impflow_zoo.testing import BlockCase, BlockLaws

F64, CPU = torch.float64, torch.device("cpu")


class WrongLogDet(ResFlowTransform):
    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, logabsdet = super().forward(inputs, context)
        return z, 1.001 * logabsdet


class LooseInverse(ResFlowTransform):
    def decode(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        return super().decode(inputs, context) + 1e-4

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, logabsdet = super().inverse(inputs, context)
        return x + 1e-6, logabsdet


class DetachedLogDet(ResFlowTransform):
    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, logabsdet = super().forward(inputs, context)
        return z, logabsdet.detach()


class MixedRows(ResFlowTransform):
    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, logabsdet = super().forward(inputs, context)
        return z + 1e-9 * inputs.mean(), logabsdet


class Grabby(ResFlowTransform):
    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().forward(inputs.requires_grad_(), context)


class Recording(ResFlowTransform):
    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            return super().forward(inputs, context)


class RoughInFloat32(ResFlowTransform):
    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, logabsdet = super().forward(inputs, context)
        return z, logabsdet if inputs.dtype == F64 else logabsdet.detach()


class Forgetful(ResFlowTransform):
    def encode(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            return super().encode(inputs, context).bfloat16().to(inputs.dtype)


BROKEN = {
    "there-and-back": (LooseInverse, "test_there_and_back", ("exact", "forward", F64, CPU)),
    "logdet": (WrongLogDet, "test_logdet_is_that_of_the_jacobian", ("forward", F64, CPU)),
    "cancel": (WrongLogDet, "test_logdets_of_the_two_directions_cancel", ("exact", F64, CPU)),
    "values": (LooseInverse, "test_values_alone_are_the_same_values", ("inverse",)),
    "reference": (WrongLogDet, "test_dense_reference", (CPU,)),
    "gradients": (DetachedLogDet, "test_gradients", ("log_prob", "exact", False)),
    "rows": (MixedRows, "test_rows_know_nothing_of_each_other", ("exact", "forward")),
    "other-rows": (MixedRows, "test_gradients_know_nothing_of_other_rows", ("exact", "forward")),
    "float32-gradients": (
        RoughInFloat32,
        "test_gradients_in_float32_are_those_in_float64",
        ("exact", "forward"),
    ),
    "callers": (Grabby, "test_the_callers_tensors_are_left_alone", ("exact", False)),
    "without-gradients": (
        Recording,
        "test_without_gradients",
        ("exact", "forward", torch.no_grad),
    ),
    "encode": (Forgetful, "test_values_alone_are_the_same_values", ("forward",)),
}


def reference(block, x, context):
    return ResFlowTransform(block.net, "exact").eval()(x, context)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_block_fails(name):
    kind, law, arguments = BROKEN[name]

    def run(kind):
        torch.manual_seed(0)
        case = BlockCase(
            lambda logdet: kind(LipschitzMLP(3, (8,), "sin", 0.8), logdet),
            (3,),
            lipschitz=0.8,
            reference=reference,
        )
        getattr(BlockLaws(), law)(case, *arguments)

    run(ResFlowTransform)
    with pytest.raises((AssertionError, RuntimeError)):
        run(kind)


def test_a_net_that_is_no_contraction_fails():
    case = BlockCase(lambda logdet: ResFlowTransform(UserNet(3, kappa=3.0), logdet), (3,))
    with pytest.raises(NoContractionError):
        BlockLaws().test_there_and_back(case, "truncated", "forward", F64, CPU)
