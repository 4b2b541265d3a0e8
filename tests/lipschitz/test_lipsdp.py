"""The proof of sandwich nets, and LipSDP bounds of any perceptron."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.slopes import local_norms, steepest

from impflow_zoo import LipschitzMLP, ResFlowTransform, SandwichMLP
from impflow_zoo.lipschitz.activations import HalfSin
from impflow_zoo.lipschitz.certify import certify
from impflow_zoo.lipschitz.lipsdp import (
    AffineMaps,
    lipsdp_bounds,
    maps_of,
    optimised_multipliers,
    proved_bound,
)
from impflow_zoo.testing.case import tighten

KAPPA = 0.9


def test_the_certificate_does_not_trust_the_construction():
    net = SandwichMLP(3, (8, 8), lipschitz=KAPPA).double()
    layer = net.layers[-1]
    p, q, rounding = layer.transform()
    # Rows three times as long as those of a pair.
    layer.transform = lambda: (3 * p, 3 * q, rounding)
    x = torch.randn(50, 3, dtype=torch.float64)
    assert net.certificate() > KAPPA * (1 + 1e-3)
    assert net.certificate() >= local_norms(net, steepest(net, x)).max()


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_parameters_that_are_not_finite_have_no_certificate(name):
    net = SandwichMLP(3, (8, 8))
    with torch.no_grad():
        getattr(net.layers[1], name)[0] = math.nan
    assert net.certificate() is None


class Steeper(HalfSin):
    """A user's own function, whose slopes are not those of the class it derives from."""

    @staticmethod
    def function(x):
        return x + 3 * torch.sin(x)


OTHERS = [
    torch.nn.ELU(alpha=10.0),
    torch.nn.ELU(alpha=-4.0),
    Steeper(),
    torch.nn.Sigmoid(),
]


@pytest.mark.parametrize("activation", OTHERS)
def test_other_activations_are_not_certified_as_the_ones_that_were_there(activation):
    net = SandwichMLP(2, (16, 16), "elu", lipschitz=KAPPA).double()
    for i in range(2):
        net.activations[i] = activation
    x = steepest(net, torch.randn(50, 2, dtype=torch.float64))
    certificate = net.certificate()
    assert certificate is None or certificate >= local_norms(net, x).max()


@pytest.mark.parametrize("make", [SandwichMLP, LipschitzMLP])
def test_activations_with_a_step_or_falling_ones_are_not_certified(make):
    for activation in (torch.nn.Softplus(threshold=1), torch.nn.ELU(alpha=-4.0)):
        net = make(2, (16, 16), "elu", lipschitz=KAPPA)
        net.activations[1] = activation
        assert net.certificate() is None


def test_certificates_leave_modes_as_they_are():
    net = SandwichMLP(2, (4,)).train()
    net.layers[0].eval()
    net.certificate()
    assert [layer.training for layer in net.layers] == [False, True]


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_layers_of_zeros_end_no_certificate(zero):
    net = LipschitzMLP(2, (4, 4), "sin")
    with torch.no_grad():
        net.layers[zero].weight.zero_()
    assert lipsdp_bounds(ResFlowTransform(net)) == {}


def test_the_search_for_multipliers_runs_in_inference_mode():
    with torch.inference_mode():
        net = LipschitzMLP(2, (8, 8), "elu", KAPPA)
        tighten(net)
        assert lipsdp_bounds(ResFlowTransform(net))["net"] < net.certificate()


def test_certificates_of_a_block_name_its_nets():
    block = ResFlowTransform(SandwichMLP(2, (6,), lipschitz=0.5))
    (certificate,) = certify(block)
    assert certificate.name == "net"
    assert certificate.bound == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (-1.0, 1.0), (-0.2, 1.1), (0.0, 2.0)])
@given(seed=st.integers(0, 2**31), sizes=st.sampled_from([(3, 2), (2, 5, 2), (3, 7, 4, 3)]))
@settings(max_examples=8)
def test_optimised_bounds_lie_between_the_truth_and_the_product_of_norms(slopes, seed, sizes):
    torch.manual_seed(seed)
    weights = [torch.randn(m, n, dtype=torch.float64) for n, m in itertools.pairwise(sizes)]
    maps = AffineMaps(tuple(weights), slopes)
    multipliers, expected = optimised_multipliers(maps)
    bound = proved_bound(maps, multipliers, expected)
    highest = max(slopes) ** (len(weights) - 1)
    product = math.prod(float(torch.linalg.matrix_norm(w, 2)) for w in weights) * highest
    assert expected * (1 - 1e-9) <= bound <= product * (1 + 1e-3)
    for _ in range(100):  # slopes at the ends of their range are the worst ones
        jacobian = weights[0]
        for weight in weights[1:]:
            chosen = torch.randint(0, 2, (len(jacobian),), dtype=torch.float64)
            slope = slopes[0] + chosen * (slopes[1] - slopes[0])
            jacobian = weight @ (slope[:, None] * jacobian)
        assert torch.linalg.matrix_norm(jacobian, 2) <= bound


def test_nothing_is_proved_below_the_truth():
    weights = (torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    maps, multipliers = AffineMaps(weights, (0.0, 1.0)), [torch.ones(2, dtype=torch.float64)]
    assert proved_bound(maps, multipliers, 1.0) == pytest.approx(1.0, rel=1e-6)
    assert proved_bound(maps, multipliers, 0.999) >= 1.0
    assert proved_bound(maps, multipliers, 0.4) is None
    assert proved_bound(maps, [-multipliers[0]], 1.0) is None


def test_spectral_nets_have_a_smaller_bound_by_the_inequality():
    net = LipschitzMLP(3, (16, 16), "elu", KAPPA)
    tighten(net)
    maps = maps_of(net)
    bound = proved_bound(maps, *optimised_multipliers(maps))
    x = torch.randn(100, 3, dtype=torch.float64)
    assert local_norms(net.double(), x).max() <= bound < 0.8 * net.certificate()
