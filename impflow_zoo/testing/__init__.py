"""A conformance kit for blocks: tests of the laws that every block must satisfy.

A block is a `ResidualBlock` that lists its steps. The monotone block of Ahn et al. (2022), which
solves `w + g(w) = x` and returns `z = w - g(w)`, with all of its tests:

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
log-determinants: the directions are inverses of each other, log-determinants agree with dense
Jacobians, gradients agree with finite differences, rows are independent, the caller's tensors are
not changed, transforms of `torch.func` agree with autograd, and more. To test many blocks, override
the fixture `block_case` with a parametrised one.
"""

try:
    import pytest
except ImportError:
    raise ImportError("impflow_zoo.testing needs pytest: pip install pytest") from None

pytest.register_assert_rewrite(
    *(f"impflow_zoo.testing.{laws}" for laws in ("contract_laws", "func_laws", "value_laws"))
)

from impflow_zoo.testing.case import BlockCase, check_gradients, dense_logdet, jacobian  # noqa: E402
from impflow_zoo.testing.contract_laws import ContractLaws  # noqa: E402
from impflow_zoo.testing.func_laws import FuncLaws  # noqa: E402
from impflow_zoo.testing.value_laws import ValueLaws  # noqa: E402
from impflow_zoo.transforms.base import ResidualBlock, Step  # noqa: E402

__all__ = [
    "BlockCase",
    "BlockLaws",
    "ContractLaws",
    "FuncLaws",
    "ResidualBlock",
    "Step",
    "ValueLaws",
    "check_gradients",
    "dense_logdet",
    "jacobian",
]


class BlockLaws(ValueLaws, ContractLaws, FuncLaws):
    """All laws: inherit from this class and set `case`."""
