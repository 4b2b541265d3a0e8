"""The laws every block obeys, over the dict of all blocks."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from blocks import (
    BLOCKS,
    DIRECTIONS,
    build,
    check_gradients,
    dense_logdet,
    draw,
    length,
    rounding_bound,
    tighten,
    twin,
    values,
)
from hypothesis import given
from hypothesis import strategies as st
from nflows.distributions import StandardNormal
from nflows.flows import Flow

from impflow_zoo import ImpFlowTransform, LipschitzMLP, LogDet, ResFlowTransform

every_block = pytest.mark.parametrize("name", BLOCKS)
# What does not depend on the activation is checked with nets that take other ways in the code.
every_structure = pytest.mark.parametrize(
    "name",
    [n for n in BLOCKS if n.endswith(("-sin", "-context", "-user", "-image", "-preactivation"))],
)
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)
ROULETTE = LogDet("unbiased", series="roulette")
TRUNCATED = LogDet("truncated", n_terms=6, n_probes=2)
DETERMINISTIC = {"exact": "exact", "truncated": TRUNCATED}
RANDOM = {"unbiased": "unbiased", "roulette": ROULETTE}
fixed_modes = pytest.mark.parametrize("logdet", DETERMINISTIC.values(), ids=DETERMINISTIC)
every_mode = pytest.mark.parametrize(
    "logdet", [*DETERMINISTIC.values(), *RANDOM.values()], ids=[*DETERMINISTIC, *RANDOM]
)
OTHER = {"forward": "inverse", "inverse": "forward"}


@every_block
@every_mode
@every_direction
@every_dtype
def test_there_and_back(name, logdet, direction, dtype, device):
    block = build(name, logdet, dtype=dtype, device=device)
    x, context = draw(name, 32, dtype=dtype, device=device)
    there, _ = getattr(block, direction)(x, context)
    back, _ = getattr(block, OTHER[direction])(there, context)
    p = BLOCKS[name].net.p
    bound = torch.maximum(rounding_bound(x, p), rounding_bound(there, p))
    assert (length(there - x, p) > 1e-3).all()
    assert (length(back - x, p) <= bound).all()
    if dtype == torch.float64:
        assert (length(back - x) <= 1e-9).all()


@every_block
@every_direction
@every_dtype
def test_logdet_is_that_of_the_jacobian(name, direction, dtype, device):
    block = build(name, "exact", device=device)
    x, context = draw(name, device=device)
    expected = dense_logdet(lambda x: values(block, direction)(x, context), x)
    _, logabsdet = getattr(twin(block, dtype), direction)(
        x.to(dtype), None if context is None else context.to(dtype)
    )
    assert logabsdet.dtype == dtype
    assert logabsdet.shape == (len(x),)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(logabsdet.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["resflow-one-feature", "impflow-one-feature"])
@every_direction
def test_with_one_feature_an_unbiased_logdet_is_exact(name, direction):
    block = build(name, LogDet("unbiased", rtol=1e-12))
    x, _ = draw(name)
    expected = dense_logdet(values(block, direction), x)
    torch.testing.assert_close(getattr(block, direction)(x)[1], expected, rtol=0, atol=1e-9)


@every_block
@fixed_modes
@every_dtype
def test_logdets_of_the_two_directions_cancel(name, logdet, dtype, device):
    block = build(name, logdet, dtype=dtype, device=device)
    x, context = draw(name, 16, dtype=dtype, device=device)
    z, there = block(x, context)
    _, back = block.inverse(z, context)
    assert (there.abs() > 1e-6).any()
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(there, -back, rtol=0, atol=tolerance)


@every_block
@every_direction
def test_values_alone_are_the_same_values(name, direction):
    block = build(name, "unbiased")
    x, context = draw(name)
    torch.testing.assert_close(
        values(block, direction)(x, context), getattr(block, direction)(x, context)[0]
    )


def leaves_of(block, x, context):
    """Copies of inputs that require grad, and all tensors to differentiate by."""
    x = x.clone().requires_grad_()
    context = None if context is None else context.clone().requires_grad_()
    tensors = [x, *([] if context is None else [context]), *block.parameters()]
    return x, context, tensors


@every_block
@fixed_modes
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("what", ["log_prob", "inverse", "decode"])
def test_gradients(name, logdet, training, what):
    """By inputs, contexts and parameters, with a weight of its own for every sample."""
    if what == "decode" and logdet is TRUNCATED:
        pytest.skip("no log-determinant in it")
    block = build(name, logdet)
    x, context, tensors = leaves_of(block, *draw(name, 4))
    flow = Flow(block, StandardNormal(x.shape[1:])).double().train(training)
    weight, direction = torch.randn(4, dtype=x.dtype), torch.randn_like(x)

    def loss():
        if what == "log_prob":
            return (weight * flow.log_prob(x, context)).sum()
        if what == "decode":
            return (direction * block.decode(x, context)).sum()
        samples, logabsdet = block.inverse(x, context)
        return (direction * samples).sum() + (weight * logabsdet).sum()

    loss()  # in training mode the power vectors converge before the comparison
    check_gradients(loss, tensors)


@every_block
def test_no_parameter_is_lost_to_the_gradient(name):
    block = build(name)
    x, context = draw(name)
    for samples, logabsdet in (block(x, context), block.inverse(x, context)):
        grads = torch.autograd.grad(
            samples.square().sum() + logabsdet.sum(), list(block.parameters()), allow_unused=True
        )
        assert all(g is not None for g in grads)
        assert sum(float(g.abs().sum()) for g in grads) > 0


@every_block
@fixed_modes
@every_direction
def test_rows_know_nothing_of_each_other(name, logdet, direction):
    block = build(name, logdet)
    x, context = draw(name, 9)
    z, logabsdet = getattr(block, direction)(x, context)
    again, logabsdet_again = getattr(block, direction)(x, context)
    torch.testing.assert_close(again, z, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(logabsdet_again, logabsdet, rtol=1e-12, atol=1e-14)
    order = torch.randperm(9)[:7]
    for rows in (order, order[:1]):
        some = None if context is None else context[rows]
        z_some, logabsdet_some = getattr(block, direction)(x[rows], some)
        torch.testing.assert_close(z_some, z[rows], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(logabsdet_some, logabsdet[rows], rtol=1e-12, atol=1e-14)


@every_block
@fixed_modes
def test_gradients_know_nothing_of_other_rows(name, logdet):
    block = build(name, logdet)
    x, context = draw(name, 6)
    x.requires_grad_()
    z, logabsdet = block(x, context)
    (grad,) = torch.autograd.grad(z[4].sum() + logabsdet[4], x)
    assert grad[4].abs().sum() > 0
    assert grad[torch.arange(6) != 4].abs().max() == 0


@every_structure
@every_mode
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_callers_tensors_are_left_alone(name, logdet, training):
    block = build(name, logdet).train(training)
    x, context = draw(name)
    tensors = [t for t in (x, context, *block.parameters()) if t is not None]
    before = [t.detach().clone() for t in tensors]
    flags = [(t.requires_grad, t._version) for t in tensors]
    z, logabsdet = block(x, context)
    sample, _back = block.inverse(x, context)
    inputs = x.clone().requires_grad_()
    torch.autograd.grad(sum(t.sum() for t in block.inverse(inputs, context)), inputs)
    for t, old, flag in zip(tensors, before, flags, strict=True):
        assert torch.equal(t, old)
        assert (t.requires_grad, t._version) == flag
        assert t.grad is None
    assert z.requires_grad
    assert logabsdet.requires_grad
    assert sample.requires_grad


@every_structure
@every_mode
@every_direction
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_without_gradients(name, logdet, direction, guard):
    block = build(name, logdet)
    x, context = draw(name)
    with guard():
        torch.manual_seed(1)
        z, logabsdet = getattr(block, direction)(x * 1, None if context is None else context * 1)
        alone = values(block, direction)(x * 1, context)
    assert not (z.requires_grad)
    assert not (logabsdet.requires_grad)
    assert not (alone.requires_grad)
    torch.manual_seed(1)
    z_grad, logabsdet_grad = getattr(block, direction)(x, context)
    torch.testing.assert_close(z, z_grad)
    torch.testing.assert_close(alone, z_grad)
    torch.testing.assert_close(logabsdet, logabsdet_grad)


@every_block
@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_copies_agree_and_are_independent(name, copied):
    block = build(name)
    x, context = draw(name)
    z, logabsdet = block(x, context)
    clone = copy.deepcopy(block) if copied == "deepcopy" else pickle.loads(pickle.dumps(block))
    z_clone, logabsdet_clone = clone(x, context)
    assert torch.equal(z, z_clone)
    assert torch.equal(logabsdet, logabsdet_clone)
    with torch.no_grad():
        for p in clone.parameters():
            p.mul_(0.5)
    assert not torch.equal(clone(x, context)[0], z)
    assert torch.equal(block(x, context)[0], z)


@every_structure
@every_mode
@every_direction
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_no_rows(name, logdet, direction, training):
    block = build(name, logdet).train(training)
    x, context = draw(name, 0)
    x.requires_grad_()
    z, logabsdet = getattr(block, direction)(x, context)
    assert z.shape == x.shape
    assert logabsdet.shape == (0,)
    (z.sum() + logabsdet.sum()).backward()
    assert x.grad.shape == x.shape


@every_structure
@every_mode
@every_direction
def test_one_row(name, logdet, direction):
    block = build(name, logdet)
    x, context = draw(name, 1)
    z, logabsdet = getattr(block, direction)(x, context)
    assert z.shape == x.shape
    assert logabsdet.shape == (1,)
    assert z.isfinite().all()
    assert logabsdet.isfinite().all()


@every_structure
@every_mode
@every_direction
def test_frozen_parameters(name, logdet, direction):
    block = build(name, logdet)
    x, context = draw(name)
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
    torch.testing.assert_close(torch.autograd.grad(frozen, inputs)[0], expected)


@every_direction
def test_one_net_frozen(direction):
    block = build("impflow-sin")
    block.net_x.requires_grad_(requires_grad=False)
    x, _ = draw("impflow-sin")
    sum(t.sum() for t in getattr(block, direction)(x)).backward()
    assert all(p.grad is None for p in block.net_x.parameters())
    assert all(p.grad is not None for p in block.net_z.parameters())


@every_structure
@every_mode
@every_direction
@pytest.mark.parametrize("narrow", [False, True], ids=["float32-input", "bfloat16-input"])
def test_autocast(name, logdet, direction, narrow, device):
    block = build(name, logdet, dtype=torch.float32, device=device)
    x, context = draw(name, dtype=torch.float32, device=device)
    x = x.bfloat16() if narrow else x
    inputs = x.clone().requires_grad_()
    torch.manual_seed(1)
    expected, expected_logabsdet = getattr(block, direction)(x.float(), context)
    torch.manual_seed(1)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        z, logabsdet = getattr(block, direction)(inputs, context)
    assert z.dtype == logabsdet.dtype == torch.float32
    torch.testing.assert_close(z, expected, rtol=0, atol=0.2)
    torch.testing.assert_close(logabsdet, expected_logabsdet, rtol=0, atol=0.3)
    (z.sum() + logabsdet.sum()).backward()
    assert inputs.grad.dtype == inputs.dtype
    assert inputs.grad.isfinite().all()


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
            preactivation=draw(st.booleans()),
        )
        for _ in range(2)
    ]
    block = draw(st.sampled_from([ResFlowTransform(nets[0]), ImpFlowTransform(*nets)]))
    tighten(block, draw(st.sampled_from([0.1, 1.0, 30.0])))
    entry = st.floats(-1e3, 1e3, width=64)
    rows = draw(st.lists(st.lists(entry, min_size=features, max_size=features), min_size=1))
    return block.double().eval(), torch.tensor(rows, dtype=torch.float64), kappa


def check_block(case):
    block, x, kappa = case
    z, logabsdet = block(x)
    back, back_logabsdet = block.inverse(z)
    bound = torch.maximum(rounding_bound(x, 2.0, kappa), rounding_bound(z, 2.0, kappa))
    assert (length(back - x) <= bound).all()
    assert (length(z - block.encode(x)) <= bound).all()
    torch.testing.assert_close(logabsdet, dense_logdet(block.encode, x), rtol=0, atol=1e-9)
    curvature = 1e3  # of the log-determinants: it amplifies the rounding of large inputs
    assert ((logabsdet + back_logabsdet).abs() <= 1e-9 + curvature * bound).all()


@given(blocks_and_rows())
def test_any_block_on_any_rows(case):
    check_block(case)


@pytest.mark.slow
@given(blocks_and_rows())
@pytest.mark.parametrize("part", range(20))
def test_any_block_on_any_rows_at_length(part, case):
    check_block(case)
