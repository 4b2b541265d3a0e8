"""A conformance kit for blocks: a constructor in, every law of a block out.

A block is a `ResidualBlock` that lists its steps. The monotone block of Ahn et al. (2022), which
solves `w + g(w) = x` and answers `z = w - g(w)`, with all of its tests:

    class Monotone(ResidualBlock):
        steps = (Step("net", inverted=True), Step("net", sign=-1))

        def __init__(self, net, logdet="auto", solver=None):
            super().__init__(logdet, solver)
            self.net = net

    class TestMonotone(BlockLaws):
        case = BlockCase(
            lambda logdet: Monotone(LipschitzMLP(3, (8, 8), context_features=2), logdet),
            shape=(3,),
            context_features=2,
            lipschitz=0.99,
        )

pytest runs the laws in both directions, in float32 and float64, with exact, truncated and random
log-determinants: the directions are inverses of each other, log-determinants are those of the
Jacobian, gradients are those of finite differences, rows know nothing of each other, the caller's
tensors stay as they are, and more. A suite with many blocks overrides the fixture `block_case` with
a parametrised one.
"""

import pytest

pytest.register_assert_rewrite(
    "impflow_zoo.testing.contract_laws", "impflow_zoo.testing.value_laws"
)

from impflow_zoo.testing.case import BlockCase, check_gradients, dense_logdet, jacobian  # noqa: E402
from impflow_zoo.testing.contract_laws import ContractLaws  # noqa: E402
from impflow_zoo.testing.value_laws import ValueLaws  # noqa: E402
from impflow_zoo.transforms.base import ResidualBlock, Step  # noqa: E402

__all__ = [
    "BlockCase",
    "BlockLaws",
    "ContractLaws",
    "ResidualBlock",
    "Step",
    "ValueLaws",
    "check_gradients",
    "dense_logdet",
    "jacobian",
]


class BlockLaws(ValueLaws, ContractLaws):
    """Every law; inherit, and give `case`."""
