"""The laws of the conformance kit over all blocks, and over blocks made at random."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.blocks import BLOCKS, DIRECTIONS, IMAGE_BLOCKS, build, draw

from impflow_zoo import ImpFlowTransform, LipschitzMLP, LogDet, ResFlowTransform, SandwichMLP
from impflow_zoo.testing import (
    BlockCase,
    BlockLaws,
    ContractLaws,
    FuncLaws,
    ValueLaws,
    dense_logdet,
)
from impflow_zoo.testing.case import tighten, values
from impflow_zoo.transforms.base import ResidualBlock, Step

every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


class TestValues(ValueLaws):
    """Over every block."""

    @pytest.fixture(params=BLOCKS.values(), ids=BLOCKS)
    def block_case(self, request):
        return request.param


class TestValuesOfImages(ValueLaws):
    """Over the nets that image models are made of."""

    @pytest.fixture(params=IMAGE_BLOCKS.values(), ids=IMAGE_BLOCKS)
    def block_case(self, request):
        return request.param

    @pytest.fixture(autouse=True)
    def _outside_of_training(self, request):
        if request.node.callspec.params.get("training"):
            pytest.skip("power vectors follow to 1e-4 there: not the gradient of calculus")


# What does not depend on the activation is checked with nets that take other ways in the code.
STRUCTURES = {
    name: case
    for name, case in BLOCKS.items()
    if name.endswith(("-sin", "-sandwich", "-context", "-user", "-image", "-preactivation"))
} | IMAGE_BLOCKS


class TestContract(ContractLaws):
    """Over every structure."""

    @pytest.fixture(params=STRUCTURES.values(), ids=STRUCTURES)
    def block_case(self, request):
        return request.param


KINDS = (
    "resflow-sin",
    "resflow-user-context",
    "impflow-sandwich-elu-context",
    "impflow-clipswish",
    "monotone-sandwich",
    "monotone-user-image",
    "monotone-cpila-preactivation",
    "resflow-dense-image",
    "impflow-conv-image",
)


def seldom(blocks):
    """All blocks; the fast tests take one of each kind of block and of net."""
    marks = {name: () if name in KINDS else pytest.mark.slow for name in blocks}
    return [pytest.param(blocks[name], id=name, marks=marks[name]) for name in blocks]


class TestFunc(FuncLaws):
    """Over every block."""

    @pytest.fixture(params=seldom(BLOCKS))
    def block_case(self, request):
        return request.param


class TestFuncInEvaluation(FuncLaws):
    """Over nets whose power vectors follow the weights in training."""

    @pytest.fixture(params=seldom(IMAGE_BLOCKS))
    def block_case(self, request):
        return request.param

    @pytest.fixture
    def training(self):
        return False


class Monotone(ResidualBlock):
    """The block that the kit's own documentation writes."""

    steps = (Step("net", inverted=True), Step("net", sign=-1))

    def __init__(self, net, logdet="auto", solver=None):
        super().__init__(logdet, solver)
        self.net = net


class TestAnAuthorsBlock(BlockLaws):
    case = BlockCase(
        lambda logdet: Monotone(SandwichMLP(3, (8, 8), context_features=2), logdet),
        shape=(3,),
        context_features=2,
        lipschitz=0.99,
    )


@pytest.mark.parametrize("name", ["resflow-one-feature", "impflow-one-feature"])
@every_direction
def test_with_one_feature_an_unbiased_logdet_is_exact(name, direction):
    block = build(name, LogDet("unbiased", rtol=1e-12))
    x, _ = draw(name)
    expected = dense_logdet(values(block, direction), x)
    torch.testing.assert_close(getattr(block, direction)(x)[1], expected, rtol=0, atol=1e-9)


@every_direction
def test_one_net_frozen(direction):
    block = build("impflow-sin")
    block.net_x.requires_grad_(requires_grad=False)
    x, _ = draw("impflow-sin")
    sum(t.sum() for t in getattr(block, direction)(x)).backward()
    assert all(p.grad is None for p in block.net_x.parameters())
    assert all(p.grad is not None for p in block.net_z.parameters())


@st.composite
def blocks_and_rows(draw):
    """A block of random kind, width, activation and constant, and rows of any size."""
    features = draw(st.integers(1, 4))
    kappa = draw(st.floats(0.05, 0.97))
    activation = draw(st.sampled_from(["sin", "lipswish", "elu", "softplus", "clipswish", "cpila"]))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    nets = [
        LipschitzMLP(
            features,
            draw(st.sampled_from([(), (5,), (6, 3)])),
            activation,
            kappa,
        )
        for _ in range(2)
    ]
    block = draw(st.sampled_from([ResFlowTransform(nets[0]), ImpFlowTransform(*nets)]))
    tighten(block, draw(st.sampled_from([0.1, 1.0, 30.0])))
    entry = st.floats(-1e3, 1e3, width=64)
    rows = draw(st.lists(st.lists(entry, min_size=features, max_size=features), min_size=1))
    case = BlockCase(lambda logdet: block, (features,), lipschitz=kappa)
    return case, block.double().eval(), torch.tensor(rows, dtype=torch.float64)


def check_block(case, block, x):
    z, logabsdet = block(x)
    back, back_logabsdet = block.inverse(z)
    bound = case.rounding(x, z)
    assert (case.length(back - x) <= bound).all()
    assert (case.length(z - block.encode(x)) <= bound).all()
    torch.testing.assert_close(logabsdet, dense_logdet(block.encode, x), rtol=0, atol=1e-9)
    curvature = 1e3  # of the log-determinants: it amplifies the rounding of large inputs
    assert ((logabsdet + back_logabsdet).abs() <= 1e-9 + curvature * bound).all()


@given(blocks_and_rows())
def test_any_block_on_any_rows(block_and_rows):
    check_block(*block_and_rows)


@pytest.mark.slow
@given(blocks_and_rows())
@pytest.mark.parametrize("part", range(20))
def test_any_block_on_any_rows_at_length(part, block_and_rows):
    check_block(*block_and_rows)
