"""What is certified of nets that were changed, and of nets of users."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from impflow_zoo import (
    LipschitzConvNet,
    LipschitzDenseNet,
    LipschitzMLP,
    ResFlowTransform,
    SandwichMLP,
)
from impflow_zoo.lipschitz.certify import certify, worst
from impflow_zoo.lipschitz.lipsdp import lipsdp_bounds
from impflow_zoo.transforms.torus import TorusNet

UNPROVED = {
    "hook": lambda net: net.activations[0].register_forward_hook(lambda *args: 3 * args[-1]),
    "forward": lambda net: setattr(net.activations[0], "forward", torch.exp),
    "steeper": lambda net: setattr(net.activations[0], "alpha", 2.0),
    "other class": lambda net: setattr(net, "activations", nn.ModuleList([nn.GELU()])),
    "NaN": lambda net: net.layers[0].weight.data.fill_(math.nan),
    "infinity": lambda net: net.layers[1].bias.data.fill_(math.inf),
}


@pytest.mark.parametrize("change", UNPROVED.values(), ids=UNPROVED)
@pytest.mark.parametrize("kind", ["mlp", "conv", "dense"])
def test_nothing_is_certified_of_what_is_not_known(kind, change):
    nets = {
        "mlp": lambda: LipschitzMLP(3, (8,), "elu"),
        "conv": lambda: LipschitzConvNet(3, (4, 4), 8, (3, 3), "elu"),
        "dense": lambda: LipschitzDenseNet(3, (4, 4), 8, 1, activation="elu"),
    }
    net = nets[kind]().eval()
    assert certify(ResFlowTransform(net))[0].margin is not None
    change(net)
    assert str(certify(ResFlowTransform(net))[0]) == "net: not certified"


class Tripled(LipschitzMLP):
    """A sub-class whose inherited certificate says nothing of what it computes."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return 3 * super().forward(x, context)


def hooked() -> nn.Module:
    net = LipschitzMLP(2, (8,))
    net.register_forward_hook(lambda net, args, value: 3 * value)
    return net


def patched() -> nn.Module:
    net = SandwichMLP(2, (8,))
    net.forward = lambda x, context=None: 3 * x
    return net


@pytest.mark.parametrize(
    "make", [lambda: Tripled(2, (8,)), hooked, patched], ids=["tripled", "hooked", "patched"]
)
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: TorusNet(net, [0])])
def test_an_inherited_certificate_does_not_hold_for_another_forward(make, wrap):
    block = ResFlowTransform(wrap(make())).eval()
    assert str(certify(block)[0]) == "net: not certified"
    assert lipsdp_bounds(block) == {}


def test_an_activation_of_a_user_is_certified_by_its_slopes():
    class Arctan(nn.Module):
        slopes = (0.0, 1.0)

        def forward(self, x: Tensor) -> Tensor:
            return torch.atan(x)

    assert LipschitzMLP(3, (8,), Arctan, lipschitz=0.5).certificate() == pytest.approx(0.5, abs=0.5)


def test_certify_passes_over_modules_with_other_nets():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleList([nn.Linear(2, 2)])

        def forward(self, x: Tensor) -> Tensor:
            return 0.1 * self.nets[0](x)

    assert [str(c) for c in certify(ResFlowTransform(Net()))] == ["net: not certified"]


@pytest.mark.parametrize("bound", [math.nan, -1.0, torch.tensor(math.nan)], ids=str)
def test_a_bound_that_is_none_certifies_nothing(bound):
    class Net(nn.Linear):
        def certificate(self) -> float:
            return bound

    proved = LipschitzMLP(2)
    for nets in ([Net(2, 2), proved], [proved, Net(2, 2)]):
        certificates = certify(nn.Sequential(*map(ResFlowTransform, nets)))
        assert sorted(c.margin is None for c in certificates) == [False, True]
        assert worst(certificates).bound is None
