"""Sandwich nets, and frequencies of neurons."""

from __future__ import annotations

import copy
import math
import pickle

import normflows as nf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.slopes import local_norms, steepest
from torch.optim.swa_utils import AveragedModel

from impflow_zoo import ImpFlow, ImpFlowTransform, LipschitzMLP, ResFlowTransform, SandwichMLP
from impflow_zoo.lipschitz.activations import ACTIVATIONS, make_activation
from impflow_zoo.lipschitz.sandwich import SANDWICH_ACTIVATIONS, CayleyLayer
from impflow_zoo.normflows import ImpFlowLayer
from impflow_zoo.testing.case import tighten

KAPPA = 0.9
every_activation = pytest.mark.parametrize("activation", SANDWICH_ACTIVATIONS)


# --- the net --------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-20, 1e-3, 1.0, 5.0, 1e3, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pairs_have_rows_no_longer_than_orthonormal_ones(factor, dtype):
    layer = CayleyLayer(5, 7).to(dtype)
    with torch.no_grad():
        layer.weight.mul_(factor)
    a, b = (t.double() for t in layer.pair())
    largest = torch.linalg.eigvalsh(a @ a.mT + b @ b.mT)[-1]
    assert largest <= 1 + 20 * torch.finfo(dtype).eps
    if factor <= 5:
        assert largest >= 1 - 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_layer_alone_is_a_bounded_linear_map(training):
    layer, x = CayleyLayer(5, 7).double().train(training), torch.randn(4, 5, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.mul_(3)
    b = layer.pair()[1]
    torch.testing.assert_close(layer(x), x @ b.mT + layer.bias)
    assert torch.equal(layer.normalised_weight(), b)
    assert layer.norm_bound() == pytest.approx(float(torch.linalg.matrix_norm(b, 2).detach()))
    assert layer.norm_bound() <= layer.coefficient * (1 + 1e-12)
    layer(x).sum().backward()
    assert layer.weight.grad.any()


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5, 4)])
def test_weights_are_products_of_the_pairs(hidden):
    """Equation (6) of Wang & Manchester, with frequencies."""
    net, count = SandwichMLP(3, hidden, "elu", KAPPA, frequency=2.0).double(), len(hidden)
    pairs = [layer.pair() for layer in net.layers]
    for i, layer in enumerate(net.layers):
        found = (*layer.transform()[:2], torch.tensor(0.5 * i))  # a rounding that shows
        layer.transform = lambda found=found: found
    frequencies = [log.exp() for log in net.log_frequencies]
    for k, weight in enumerate(net.at(None).weights):
        expected = (2 if 0 < k < count else math.sqrt(2 * KAPPA) if count else KAPPA) * pairs[k][1]
        if k > 0:
            expected = expected @ pairs[k - 1][0].mT / frequencies[k - 1]
        if k < count:
            expected = frequencies[k][:, None] * expected
        torch.testing.assert_close(weight, expected / (1 + 0.5 * count))


@every_activation
@given(
    scale=st.floats(-8, 8),
    frequency=st.floats(-2, 2),
    features=st.integers(1, 5),
    hidden=st.sampled_from([(1,), (6,), (9, 3), (4, 8, 4)]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=30)
def test_local_norms_keep_the_bound_for_weights_of_any_size(
    activation, scale, frequency, features, hidden, seed
):
    torch.manual_seed(seed)
    net = SandwichMLP(features, hidden, activation, KAPPA, frequency=10**frequency).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(10**scale) if p.dim() == 2 else p.add_(torch.randn_like(p))
    x = 3 * torch.randn(20, features, dtype=torch.float64)
    assert local_norms(net, x).max() <= KAPPA * (1 + 1e-12)
    assert local_norms(net, steepest(net, x, steps=5)).max() <= KAPPA * (1 + 1e-12)
    assert net.certificate() <= KAPPA * (1 + 1e-6)


def test_a_net_without_hidden_layers_is_linear():
    net = SandwichMLP(3, (), lipschitz=KAPPA).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    assert local_norms(net, x).max() <= KAPPA * (1 + 1e-12)
    torch.testing.assert_close(net(2 * x) - net(x), net(x) - net(0 * x))
    assert net.certificate() <= KAPPA * (1 + 1e-6)


@every_activation
@given(
    rate=st.floats(-2, 4),
    frequency=st.floats(-2, 2),
    hidden=st.sampled_from([(1,), (8, 8), (4, 9, 4)]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=6)
def test_local_norms_keep_the_bound_after_steps_of_a_huge_rate(
    activation, rate, frequency, hidden, seed
):
    torch.manual_seed(seed)
    net = SandwichMLP(3, hidden, activation, KAPPA, frequency=10**frequency)
    optimizer = torch.optim.Adam(net.parameters(), lr=10**rate)
    for _ in range(10):
        optimizer.zero_grad()
        (-net(torch.randn(50, 3)).square().mean()).backward()
        optimizer.step()
    net.double()
    x = steepest(net, torch.randn(20, 3, dtype=torch.float64), steps=20)
    assert local_norms(net, x).max() <= KAPPA * (1 + 1e-6)
    assert net.certificate() <= KAPPA * (1 + 1e-6)


def test_a_steep_net_comes_close_to_its_bound_where_products_of_norms_do_not():
    def trained(net):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            x = torch.randn(100, 2)
            (net(x) + x.square()).square().mean().backward()  # slope -2 x: too steep for any
            optimizer.step()
        x = torch.randn(500, 2, dtype=torch.float64)
        return local_norms(net.double().eval(), x).mean()

    torch.manual_seed(0)
    sandwich = trained(SandwichMLP(2, (32, 32), "elu", KAPPA))
    spectral = trained(LipschitzMLP(2, (32, 32), "elu", KAPPA))
    assert sandwich > 0.8 * KAPPA
    assert sandwich > spectral + 0.1


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - set(SANDWICH_ACTIVATIONS)))
def test_slopes_outside_of_0_and_1_are_refused(name):
    with pytest.raises(ValueError, match=rf"'{name}': .* slopes in \[0, 1\], halfsin"):
        SandwichMLP(2, (4,), name)


@every_activation
def test_slopes_of_what_is_accepted_lie_in_0_and_1(activation):
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(make_activation(activation).double()(x).sum(), x)
    assert slope.min() >= -1e-12
    assert slope.max() <= 1 + 1e-12


def test_contexts_leave_the_bound_as_it_is():
    net = SandwichMLP(2, (6, 6), lipschitz=KAPPA, context_features=3).double()
    context = 100 * torch.randn(20, 3, dtype=torch.float64)
    x = torch.randn(20, 2, dtype=torch.float64)
    assert local_norms(lambda x: net(x, context), x).max() <= KAPPA
    assert (net(x, context) != net(x, 0 * context)).all()
    with pytest.raises(ValueError, match="needs a context"):
        net(x)


def test_the_transform_is_computed_once_a_call(monkeypatch):
    calls = []
    inverse = torch.linalg.inv_ex
    monkeypatch.setattr(torch.linalg, "inv_ex", lambda x: calls.append(x) or inverse(x))
    block = ImpFlowTransform(SandwichMLP(2, (6, 5)), SandwichMLP(2, (6, 5)))
    block(torch.randn(4, 2))
    assert len(calls) == 6  # layers


def test_the_weights_keep_their_type_under_autocast():
    net = SandwichMLP(2, (6,))
    with torch.autocast("cpu", torch.bfloat16):
        assert net.layers[0].pair()[0].dtype == torch.float32


def test_copies_answer_bit_for_bit_alike():
    net = SandwichMLP(3, (8, 8), frequency=2.0)
    other = SandwichMLP(3, (8, 8))
    other.load_state_dict(net.state_dict())
    x = torch.randn(5, 3)
    for copied in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(copied(x), net(x))


@pytest.mark.parametrize("frequency", [0, -1.0, 1e5, math.inf, math.nan, "2"])
@pytest.mark.parametrize("kind", [SandwichMLP, LipschitzMLP])
def test_frequencies_are_positive_numbers(kind, frequency):
    with pytest.raises(ValueError, match="frequency="):
        kind(2, (4,), frequency=frequency)


@pytest.mark.parametrize("step", [1e-1, 1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_averaged_pairs_are_those_of_the_averaged_weights(step, dtype, rounding):
    net = SandwichMLP(3, (8, 8)).to(dtype).eval()
    average = AveragedModel(net, use_buffers=True).eval()
    x = torch.randn(5, 3, dtype=dtype)
    with torch.no_grad():
        for _ in range(3):
            for layer in net.layers:
                layer.weight.add_(step * torch.randn_like(layer.weight))
            net(x)
            average.update_parameters(net)
        fresh = SandwichMLP(3, (8, 8)).to(dtype).eval()
        fresh.load_state_dict(average.module.state_dict())
        torch.testing.assert_close(average.module(x), fresh(x), rtol=rounding, atol=rounding)


@torch.no_grad()
def test_evaluation_is_one_graph_for_compilers():
    net, x = SandwichMLP(3, (8,)).eval(), torch.randn(5, 3)
    graph = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(graph(x), net(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own
def test_forward_derivatives_heed_the_weights():
    net = SandwichMLP(2, (4,)).double().eval()
    x = torch.randn(3, 2, dtype=torch.float64)
    parameters = {k: v.detach() for k, v in net.named_parameters()}
    tangents = {k: torch.randn_like(v) for k, v in parameters.items()}
    with torch.no_grad():
        net(x)
        _, found = torch.func.jvp(
            lambda p: torch.func.functional_call(net, p, (x,)), (parameters,), (tangents,)
        )
        step = {k: v + 1e-6 * tangents[k] for k, v in parameters.items()}
        expected = (torch.func.functional_call(net, step, (x,)) - net(x)) / 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_hooks_of_all_modules_do_not_stop_a_net():
    net, seen = SandwichMLP(2, (4,)), []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    try:
        net(torch.randn(3, 2))
        ResFlowTransform(net)(torch.randn(3, 2))
    finally:
        hook.remove()
    assert seen


# --- frequencies ----------------------------------------------------------------------------------


def test_a_frequency_is_that_of_the_neuron():
    net = LipschitzMLP(1, (1,), "sin", lipschitz=KAPPA, frequency=3.0).double()
    plain = LipschitzMLP(1, (1,), "sin", lipschitz=KAPPA).double()
    plain.load_state_dict(net.state_dict(), strict=False)
    (w1, b1), (w2, b2) = ((layer.normalised_weight(), layer.bias) for layer in net.layers)
    x = torch.randn(6, 1, dtype=torch.float64)
    expected = torch.sin(6 * math.pi * (x @ w1.mT + b1)) / (6 * math.pi) @ w2.mT + b2
    torch.testing.assert_close(net(x), expected)
    assert not torch.allclose(plain(x), expected)


@pytest.mark.parametrize("activation", ["sin", "halfsin", "lipswish", "elu"])
def test_spectral_nets_keep_their_bound_at_any_frequency(activation):
    net = LipschitzMLP(3, (8, 8), activation, KAPPA, frequency=4.0).double().eval()
    tighten(net)
    with torch.no_grad():
        for p in net.log_frequencies:
            p.add_(torch.randn_like(p))
    x = steepest(net, torch.randn(20, 3, dtype=torch.float64))
    assert local_norms(net, x).max() <= KAPPA * (1 + 1e-12)
    assert net.certificate() <= KAPPA * (1 + 1e-6)


def test_frequencies_are_learned():
    net = SandwichMLP(2, (6, 6))
    net(torch.randn(10, 2)).square().sum().backward()
    assert all((p.grad != 0).all() for p in net.log_frequencies)


def test_pairing_activations_have_no_frequency():
    with pytest.raises(ValueError, match="'maxmin' is not elementwise"):
        LipschitzMLP(2, (4,), "maxmin", frequency=1.0)


# --- in models ------------------------------------------------------------------------------------


def test_models_of_sandwich_nets_are_saved_and_loaded(tmp_path):
    from support.small_models import make

    model = make(net="sandwich", frequency=2.0, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    loaded = ImpFlow.from_pretrained(str(tmp_path), verify=True)
    x = model.sample(5)
    assert torch.equal(loaded.log_prob(x), model.log_prob(x))
    assert loaded.config.net == "sandwich"


def test_blocks_of_sandwich_nets_stand_in_normflows():
    nets = [SandwichMLP(2, (6, 6)) for _ in range(2)]
    layer = ImpFlowLayer(*nets).eval()
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(2), [layer])
    z = torch.randn(5, 2)
    x, logabsdet = layer(z)
    back, back_logabsdet = layer.inverse(x)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(back_logabsdet, -logabsdet, rtol=0, atol=1e-5)
    assert flow.log_prob(x).shape == (5,)


def test_blocks_of_sandwich_nets_stand_in_zuko():
    zuko = pytest.importorskip("zuko")
    from impflow_zoo.zuko import LazyBlock

    block = ResFlowTransform(SandwichMLP(2, (6, 6), context_features=3)).eval()
    base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(2), torch.ones(2)
    )
    flow = zuko.lazy.Flow(LazyBlock(block), base)
    context = torch.randn(4, 3)
    x = flow(context).sample((7,))
    assert flow(context).log_prob(x).shape == (7, 4)


def test_large_free_matrices_are_scaled_as_a_whole_and_infinite_ones_show():
    layer = CayleyLayer(3, 4).double().eval()
    with torch.no_grad():
        layer.weight.mul_(100 / layer.weight.abs().amax())
        pair = layer.pair()
        layer.weight.mul_(0.3)
        torch.testing.assert_close(layer.pair(), pair)
        layer.weight[0, 0] = torch.inf
        assert not any(part.isfinite().all() for part in layer.pair())


def test_gradients_take_the_scale_of_large_matrices_as_a_constant():
    large, small = CayleyLayer(3, 4).double(), CayleyLayer(3, 4).double()
    with torch.no_grad():
        large.weight.mul_(300 / large.weight.abs().amax())
        small.weight.copy_(large.weight / 10)  # what the layer scales it down to
    for layer in (large, small):
        sum(part.sin().sum() for part in layer.pair()).backward()
    torch.testing.assert_close(large.weight.grad, small.weight.grad / 10)
    assert large.weight.grad.abs().amax() > 0
