"""Nets with ReLU: bounded as others are, and log-determinants in training say what is wrong."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from support.blocks import KAPPA, dense_logdet, jacobian, tighten
from torch import nn

from impflow_zoo import (
    ImpFlowTransform,
    LipschitzConvNet,
    LipschitzDenseNet,
    LipschitzMLP,
    NumericalWarning,
    ResFlowTransform,
    SandwichMLP,
)
from impflow_zoo.lipschitz.certify import certify

NETS: dict[str, Any] = {
    "conv": lambda: LipschitzConvNet(2, (4, 4), 6, (3, 3), "relu", lipschitz=KAPPA),
    "preactivation": lambda: LipschitzConvNet(
        2, (4, 4), 6, (3, 1, 3), "relu", preactivation=True, lipschitz=KAPPA
    ),
    "dense": lambda: LipschitzDenseNet(2, (4, 4), 3, 2, activation="relu", lipschitz=KAPPA),
    "mlp": lambda: LipschitzMLP(5, (8, 8), "relu", KAPPA),
    "sandwich": lambda: SandwichMLP(5, (8, 8), "relu", KAPPA),
}


def net(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    made = NETS[name]().double().eval()
    tighten(made)
    return made, (5,) if name in ("mlp", "sandwich") else (2, 4, 4)


@pytest.mark.parametrize("name", NETS)
def test_the_bound_holds_and_is_certified(name: str) -> None:
    made, shape = net(name)
    a, b = torch.randn(2, 200, *shape, dtype=torch.float64)
    quotients = (made(a) - made(b)).flatten(1).norm(dim=1) / (a - b).flatten(1).norm(dim=1)
    steepest = torch.linalg.matrix_norm(jacobian(made, a), 2).amax()
    (certificate,) = certify(ResFlowTransform(made))
    assert certificate.bound is not None
    assert max(quotients.amax(), steepest) <= certificate.bound <= KAPPA * (1 + 1e-2)


@pytest.mark.parametrize("name", NETS)
def test_log_determinants_in_training_warn_and_others_do_not(name: str) -> None:
    made, shape = net(name)
    x = torch.randn(3, *shape, dtype=torch.float64)
    for block in (ResFlowTransform(made, "exact"), ImpFlowTransform(made, made, "exact")):
        with pytest.warns(NumericalWarning, match="biased with ReLU.*smooth activation"):
            block.train()(x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            block.encode(x)
            block.decode(x)
            with torch.no_grad():
                block(x)
            block.eval()(x)


def test_values_of_log_determinants_are_right() -> None:
    made, shape = net("conv")
    x = torch.randn(3, *shape, dtype=torch.float64)
    block = ResFlowTransform(made, "exact").eval()
    torch.testing.assert_close(block(x)[1], dense_logdet(block.encode, x))
