"""Muon on kernels of convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from impflow_zoo.models.yardsticks import _Residual
from impflow_zoo.training.muon import Muon, takes
from impflow_zoo.training.optimisation import optimizers
from impflow_zoo.training.recipe import TrainingSettings
from impflow_zoo.transforms.labels import PerLabel

OPTIONS = {"lr": 0.1, "weight_decay": 0.2, "adjust_lr_fn": "match_rms_adamw"}


def loss(matrix: nn.Parameter, kernel: nn.Parameter, step: int) -> torch.Tensor:
    torch.manual_seed(step)
    return (matrix * torch.randn_like(matrix)).sum() + (kernel * torch.randn(3, 8)).sum()


def test_a_kernel_moves_as_torchs_muon_moves_the_matrix_it_is():
    torch.manual_seed(0)
    matrix, kernel = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(3, 2, 2, 2))
    plain = [nn.Parameter(matrix.detach().clone()), nn.Parameter(kernel.detach().flatten(1))]
    plain[1] = nn.Parameter(plain[1].detach().clone())
    ours, theirs = Muon([matrix, kernel], **OPTIONS), torch.optim.Muon(plain, **OPTIONS)
    for step in range(4):
        for optimizer, parameters in ((ours, (matrix, kernel.flatten(1))), (theirs, plain)):
            for parameter in (matrix, kernel, *plain):
                parameter.grad = None
            loss(*parameters, step).backward()
            optimizer.step()
        if step == 1:  # as a checkpoint goes on
            state = copy.deepcopy(ours.state_dict())
            ours = Muon([matrix, kernel], **OPTIONS)
            ours.load_state_dict(state)
    assert torch.equal(matrix, plain[0])
    assert torch.equal(kernel.flatten(1), plain[1])


def test_parameters_without_a_gradient_stay():
    kernel = nn.Parameter(torch.randn(3, 2, 3, 3))
    before = kernel.detach().clone()
    Muon([kernel], **OPTIONS).step()
    assert torch.equal(kernel, before)


def test_biases_and_scales_are_not_for_muon():
    shapes = {(3, 4): True, (3, 2, 1, 1): True, (3,): False, (3, 1, 1): False, (): False}
    assert {shape: takes(torch.zeros(shape)) for shape in shapes} == shapes


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_means_of_labels_and_slopes_of_a_regression_do_not_decay(optimizer):
    model = torch.nn.Sequential(PerLabel(3, 2), _Residual(2, 3), torch.nn.Linear(3, 3))
    settings = TrainingSettings(optimizer=optimizer, weight_decay=1.0)
    groups = [g for one in optimizers(model, settings).values() for g in one.param_groups]
    decayed = sum(p.numel() for g in groups if g["weight_decay"] for p in g["params"])
    assert decayed == model[2].weight.numel()
