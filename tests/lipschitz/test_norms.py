"""Norms of layers, against singular values: in training, in evaluation, after loading."""

from __future__ import annotations

import copy

import pytest
import torch
from support.slopes import spectral_norm
from torch.optim.swa_utils import AveragedModel

from impflow_zoo import (
    LipschitzConvNet,
    LipschitzDenseNet,
    LipschitzMLP,
    MonotoneTransform,
    ResFlowTransform,
)
from impflow_zoo.lipschitz.convolutions import LipschitzConv2d
from impflow_zoo.lipschitz.norms import LipschitzLinear
from impflow_zoo.numerics.finite import NotFiniteError


def linear(factor=1.0, coefficient=0.9):
    layer = LipschitzLinear(5, 4, coefficient).double()
    with torch.no_grad():
        layer.weight.copy_(factor * torch.randn(4, 5))
    return layer


def test_a_weight_is_divided_by_its_norm_over_the_coefficient():
    layer = LipschitzLinear(2, 2, coefficient=0.9)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    expected = torch.tensor([[0.9, 0.0], [0.0, 0.3]])
    torch.testing.assert_close(layer.eval().normalised_weight(), expected)


def test_layers_and_blocks_work_as_they_are_made():
    convolution = LipschitzConv2d(3, 8, 3, image_size=(4, 4), coefficient=0.9)
    assert convolution(torch.zeros(2, 3, 4, 4)).shape == (2, 8, 4, 4)
    block, x = MonotoneTransform(LipschitzMLP(features=2)).eval(), torch.randn(3, 2)
    torch.testing.assert_close(block.decode(block.encode(x)), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_large_weights_shrink_to_the_coefficient(training):
    layer = linear(factor=7).train(training)
    for _ in range(20 if training else 1):
        weight = layer.normalised_weight()
    assert spectral_norm(weight) == pytest.approx(0.9, rel=1e-3)
    ratio = weight / layer.weight
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
    if not training:
        assert spectral_norm(weight) <= 0.9 * (1 + 1e-12)
        assert layer.norm_bound() == pytest.approx(spectral_norm(weight))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("factor", [0.0, 1e-3, 0.05])
def test_small_weights_stay_as_they_are(training, factor):
    layer = linear(factor).train(training)
    for _ in range(3):
        assert torch.equal(layer.normalised_weight(), layer.weight)
    assert layer.norm_bound() <= 0.9


def test_the_vector_is_a_buffer_of_the_smaller_size():
    layer = LipschitzLinear(3, 2)
    assert layer.vector.shape == LipschitzLinear(2, 3).vector.shape == (2,)
    assert set(dict(layer.named_parameters())) == {"weight", "bias"}
    assert set(layer.state_dict()) == {"weight", "bias", "vector"}


CHANGES = {
    "scaled": lambda w: w.mul_(3),
    "one entry": lambda w: w[1, 2].fill_(50),
    "behind the vector": lambda w: w.copy_(torch.diag_embed(torch.tensor([3.0, 30, 0, 0]))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_weight_changed_by_hand_in_eval_mode_is_seen(change):
    layer = LipschitzLinear(4, 4, 0.9).double().eval()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.1])))
        before = layer.normalised_weight().clone()
        change(layer.weight)
    after = layer.normalised_weight()
    assert not torch.equal(before, after)
    assert torch.linalg.matrix_norm(after, 2).item() == pytest.approx(0.9, rel=1e-12)


def test_gradients_flow_through_the_norm():
    """Along the weight itself the normalised weight does not change."""
    layer = linear(factor=3).eval()
    with torch.no_grad():
        layer.normalised_weight()
    weight = layer.normalised_weight()
    (grad,) = torch.autograd.grad((weight * torch.randn_like(weight)).sum(), layer.weight)
    assert grad.norm() > 1e-3
    assert (grad * layer.weight).sum().abs() < 1e-12


@pytest.mark.parametrize("shape", [(64, 64), (2, 64), (64, 2)])
def test_a_singular_vector_that_was_overtaken_is_left(shape):
    """A vector that is the second singular vector knows nothing of the first one."""
    layer = LipschitzLinear(*shape, coefficient=0.1).train()
    u, _, vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    layer.vector.copy_(vh[1] if shape[0] <= shape[1] else u[:, 1])
    norm = torch.linalg.matrix_norm(layer.normalised_weight().detach(), 2)
    assert float(norm) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(3, 4), (16, 12)])
def test_norms_are_found_again_after_weights_that_were_no_numbers(shape, training):
    layer = LipschitzLinear(*shape, coefficient=0.1).train()
    before = layer.weight.detach().clone()
    with torch.no_grad():
        for bad in (torch.nan, torch.inf):
            layer.weight[0, 0] = bad
            layer.normalised_weight()
        layer.weight.copy_(before)
        weight = layer.train(training).normalised_weight()
    assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(0.1, rel=1e-5)


def test_a_layer_can_be_made_under_autocast():
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        layer = LipschitzLinear(4, 4, 0.5)
    assert layer.norm_bound() <= 0.5 * (1 + 1e-6)


def test_a_layer_without_storage_can_be_counted():
    with torch.device("meta"):
        net = LipschitzMLP(3, (8,))
    assert sum(p.numel() for p in net.parameters()) == 3 * 8 + 8 + 8 * 3 + 3


def test_loaded_vectors_are_not_taken_for_converged_ones():
    """The weight has not changed, but the vectors that had converged for it are gone."""
    net = LipschitzMLP(4, (64, 64), lipschitz=0.9).double().eval()
    with torch.no_grad():
        for layer in net.layers:
            layer.weight.normal_().mul_(3)
    before = copy.deepcopy(net.state_dict())
    x = torch.randn(3, 4).double()
    expected = net(x)
    net.load_state_dict(before)
    torch.testing.assert_close(net(x), expected)
    assert net.certificate() <= 0.9 * (1 + 1e-9)


def test_averaged_vectors_are_not_taken_for_converged_ones():
    net = LipschitzMLP(4, (64, 64), lipschitz=0.9).double().eval()
    averaged = AveragedModel(net, use_buffers=True)
    for _ in range(3):
        with torch.no_grad():
            for layer in net.layers:
                layer.weight.normal_().mul_(3)
        net(torch.zeros(1, 4).double())
        averaged.update_parameters(net)
    assert averaged.module.certificate() <= 0.9 * (1 + 1e-9)


NETS = {
    "spectral": lambda: LipschitzMLP(3, (8, 8)),
    "wide": lambda: LipschitzMLP(12, (16, 16)),
    "convolutions": lambda: LipschitzConvNet(1, (3, 3), 8),
    "dense": lambda: LipschitzDenseNet(1, (3, 3), 8, 2),
}


@pytest.mark.parametrize("recorded", [False, True], ids=["no-gradients", "gradients"])
@pytest.mark.parametrize("name", NETS)
def test_a_weight_whose_norm_overflows_is_named(name, recorded):
    """Finite weights above 1e19: without the norm nothing would bound the net."""
    net = NETS[name]().eval()
    net.layers[1].weight.data.mul_(1e20)
    x = torch.randn(4, *net.shape)
    message = r"(net\.)?layers.1.weight .*e\+.*: its norm is too large"
    with torch.set_grad_enabled(recorded):
        for call in (net, ResFlowTransform(net), ResFlowTransform(net).encode):
            with pytest.raises(NotFiniteError, match=message):
                call(x)
    with pytest.raises(NotFiniteError, match=message):
        net.certificate()
    assert net.double()(x.double()).isfinite().all()


@pytest.mark.parametrize("name", NETS)
def test_training_does_not_go_on_with_a_net_that_has_lost_its_bound(name):
    net = NETS[name]().train()
    net.layers[1].weight.data.mul_(1e20)
    block, x = ResFlowTransform(net, "exact"), torch.randn(4, *net.shape)
    with pytest.raises(NotFiniteError, match="layers.1.weight has entries up to"):
        block(x)
