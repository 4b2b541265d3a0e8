"""The blocks as transforms of torch.distributions and as parts of zuko flows."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from support.blocks import check_gradients, dense_logdet, tighten
from support.dealt import crossed
from torch.distributions import ComposeTransform, Independent, Normal, TransformedDistribution

from impflow_zoo import ImpFlowTransform, LipschitzMLP, RadialTransform, ResFlowTransform
from impflow_zoo.models.spline import SplineFlow
from impflow_zoo.models.spline_config import SplineConfig
from impflow_zoo.transforms.blocks import MonotoneTransform

zuko = pytest.importorskip("zuko")

from impflow_zoo.zuko import BlockTransform, LazyBlock  # noqa: E402 - needs zuko


def mlp(context: int | None = None) -> LipschitzMLP:
    net = LipschitzMLP(3, (8, 8), "sin", 0.8, context_features=context)
    tighten(net)
    return net


BLOCKS = {
    "impflow": lambda c=None: ImpFlowTransform(mlp(c), mlp(c)).double().eval(),
    "resflow": lambda c=None: ResFlowTransform(mlp(c)).double().eval(),
    "monotone": lambda c=None: MonotoneTransform(mlp(c)).double().eval(),
}
every_block = pytest.mark.parametrize("name", BLOCKS)
SHAPES = {
    "no-batch": ((), ()),
    "one-context": ((4,), ()),
    "context-per-row": ((4,), (4,)),
    "many-per-context": ((2, 4), (4,)),
    "one-point": ((), (4,)),
    "both-ways": ((2, 1), (4,)),
}


def base(*batch: int) -> Independent:
    zero = torch.zeros(*batch, 3, dtype=torch.float64)
    return Independent(Normal(zero, torch.ones_like(zero)), 1)


@every_block
def test_autocast_rounds_nothing(name):
    t, x = BlockTransform(BLOCKS[name]().float()), torch.randn(4, 3)
    expected = (*t.call_and_ladj(x), t(x), t.inv(x))
    with torch.autocast("cpu", torch.bfloat16):
        found = (*t.call_and_ladj(x), t(x), t.inv(x))
    assert all(map(torch.equal, found, expected))


@every_block
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_transform(name, shapes):
    points, contexts = shapes
    block = BLOCKS[name](2)
    x = torch.randn(*points, 3, dtype=torch.float64)
    context = torch.randn(*contexts, 2, dtype=torch.float64)
    t = BlockTransform(block, context)
    batch = torch.broadcast_shapes(points, contexts)
    y, ladj = t.call_and_ladj(x)
    assert y.shape == (*batch, 3)
    assert ladj.shape == batch
    rows = x.expand(*batch, 3).reshape(-1, 3)
    expected, logdet = block(rows, context.expand(*batch, 2).reshape(-1, 2))
    torch.testing.assert_close(y.reshape(-1, 3), expected)
    torch.testing.assert_close(ladj.reshape(-1), logdet)
    torch.testing.assert_close(t(x), y)
    torch.testing.assert_close(t.log_abs_det_jacobian(x, y), ladj)
    torch.testing.assert_close(t.inv(y), x.expand(*batch, 3))
    back, back_ladj = t.inv.call_and_ladj(y)
    torch.testing.assert_close(back, x.expand(*batch, 3))
    torch.testing.assert_close(back_ladj, -ladj)
    torch.testing.assert_close(t.inv.log_abs_det_jacobian(y, x.expand(*batch, 3)), -ladj)
    assert t.inv.inv == t
    assert t.inv != t
    assert hash(t.inv.inv) == hash(t)
    assert t.bijective
    assert t.event_dim == 1


def test_shapes_that_do_not_go_together():
    t = BlockTransform(BLOCKS["resflow"](2), torch.zeros(3, 2).double())
    with pytest.raises(ValueError, match=r"shape \(4, 3\) and contexts .*\(3, 2\)"):
        t(torch.zeros(4, 3).double())


@every_block
def test_distributions_of_torch(name):
    blocks = [BLOCKS[name](), BLOCKS[name]()]
    there = ComposeTransform([BlockTransform(block) for block in blocks])
    d = TransformedDistribution(base(), [there.inv])
    x = torch.randn(5, 3, dtype=torch.float64)
    encode = lambda x: blocks[1].encode(blocks[0].encode(x))  # noqa: E731
    expected = base().log_prob(encode(x)) + dense_logdet(encode, x)
    torch.testing.assert_close(d.log_prob(x), expected)
    samples = d.rsample((7,))
    assert samples.shape == (7, 3)
    assert samples.requires_grad


def flow_of(name: str, context: int | None) -> zuko.flows.Flow:
    normal = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(3), torch.ones(3), buffer=True
    )
    spline = zuko.flows.GeneralCouplingTransform(3, context or 0, hidden_features=(8,))
    parts = [LazyBlock(BLOCKS[name](context)), spline, LazyBlock(BLOCKS[name]())]
    return zuko.flows.Flow(parts, normal).double().eval()


CONTEXTS = {"conditional": 2, "unconditional": None}


@pytest.mark.parametrize(("name", "context"), crossed({name: name for name in BLOCKS}, CONTEXTS))
def test_flow(name, context):
    flow = flow_of(name, context)
    x = torch.randn(5, 3, dtype=torch.float64)
    c = None if context is None else torch.randn(5, context, dtype=torch.float64)
    d = flow(c)
    expected = base().log_prob(d.transform(x)) + dense_logdet(d.transform, x)
    torch.testing.assert_close(d.log_prob(x), expected)
    parameters = list(flow.parameters())
    check_gradients(lambda: flow(c).log_prob(x).mean(), parameters)
    batch = () if context is None else (5,)
    samples, log_prob = d.rsample_and_log_prob((7,))
    assert samples.shape == (7, *batch, 3)
    torch.testing.assert_close(d.log_prob(samples), log_prob)
    assert d.sample((2, 4)).shape == (2, 4, *batch, 3)

    def reverse():
        torch.manual_seed(1)
        samples, log_prob = flow(c).rsample_and_log_prob((4,))
        return (log_prob + samples.pow(4).sum(-1)).mean()

    check_gradients(reverse, list(flow.transform.transforms[0].parameters()))


@torch.no_grad()
def test_compiled_flow():
    parts, x = [LazyBlock(BLOCKS["resflow"]())], torch.randn(5, 3, dtype=torch.float64)
    flow = zuko.flows.Flow(parts, lambda c: base())
    compiled = torch.compile(lambda: flow().log_prob(x), backend="eager")
    torch.testing.assert_close(compiled(), flow().log_prob(x))


OTHERS = {"radial": lambda: RadialTransform(3), "model": lambda: spline().transform}


def spline() -> SplineFlow:
    return SplineFlow(SplineConfig(features=3, blocks=1, hidden_features=8))


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_transforms_of_nflows_encode_and_decode(make):
    transform, x = make().double().eval(), torch.randn(5, 3, dtype=torch.float64)
    t = LazyBlock(transform)()
    torch.testing.assert_close(t(x), transform(x)[0])
    torch.testing.assert_close(t.inv(t(x)), x)
    torch.testing.assert_close(t.call_and_ladj(x)[1], transform(x)[1])


def test_a_context_changes_the_density():
    flow, x = flow_of("impflow", 2), torch.zeros(1, 3, dtype=torch.float64)
    a, b = (flow(torch.full((1, 2), v).double()).log_prob(x) for v in (0.0, 1.0))
    assert not torch.allclose(a, b)


def test_weights_move_as_they_are():
    block, part = BLOCKS["impflow"](), LazyBlock(BLOCKS["impflow"]())
    part.transform.load_state_dict(block.state_dict())
    x = torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(part()(x), block.encode(x))
    with pytest.raises(RuntimeError, match=r"Missing key.*transform.net_x"):
        part.load_state_dict(LazyBlock(BLOCKS["resflow"]()).state_dict())


def test_without_zuko_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko.lazy", None)
    monkeypatch.delitem(sys.modules, "impflow_zoo.zuko")
    remedy = r"impflow_zoo.zuko needs zuko: pip install 'impflow_zoo\[zuko\]'"
    with pytest.raises(ImportError, match=remedy):
        importlib.import_module("impflow_zoo.zuko")
