"""The examples: what they claim, and that each makes its picture with one command."""

from __future__ import annotations

import importlib

import pytest
import torch
from support.command_line import call
from torch import Tensor, nn

from impflow_zoo import LipschitzMLP, ResFlowTransform

pytest.importorskip("matplotlib")
one_dimension = importlib.import_module("one_dimension")


class Line(nn.Module):
    """The steepest net there is: `kappa x`."""

    def __init__(self, kappa: float) -> None:
        super().__init__()
        self.kappa = kappa

    def forward(self, x: Tensor) -> Tensor:
        return self.kappa * x


def test_one_implicit_block_is_the_target():
    block = one_dimension.exact_block()
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None]
    z, logabsdet = block(x)
    torch.testing.assert_close(z, one_dimension.target(x), rtol=0, atol=1e-12)
    slope = torch.where(x < 0, one_dimension.FLAT, one_dimension.STEEP).log()[:, 0]
    away = x[:, 0] != 0  # at the kink itself there is no derivative
    torch.testing.assert_close(logabsdet[away], slope[away].double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(block.decode(z), x, rtol=0, atol=1e-12)
    assert max(net.lipschitz for net in (block.net_x, block.net_z)) < 1


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("kind", ["trained", "at-random", "steepest"])
def test_residual_blocks_stay_above_the_bound(blocks, kind):
    bound = one_dimension.lower_bound(blocks)
    assert bound == (10 - 2**blocks) / 2
    if kind == "steepest":
        flow = [ResFlowTransform(Line(0.999)).eval() for _ in range(blocks)]
    else:
        flow = [
            ResFlowTransform(LipschitzMLP(1, (16,), "lipswish", 0.99)).eval() for _ in range(blocks)
        ]
    if kind == "trained":
        one_dimension.fit(flow, steps=60)
    assert one_dimension.error(flow) >= bound


def test_the_bound_is_sharp_where_the_target_is_steep():
    x = torch.linspace(0, 1, 101)[:, None]
    flow = [ResFlowTransform(Line(0.999)).eval() for _ in range(3)]
    error = (one_dimension.apply(flow, x) - one_dimension.target(x)).abs().amax()
    bound = one_dimension.lower_bound(3)
    assert bound <= float(error) <= bound * 1.02


@pytest.mark.parametrize(
    "command",
    [
        ["one_dimension", "--steps", "3"],
        pytest.param(["toys", "--steps", "2", "--toys", "moons"], marks=pytest.mark.slow),
    ],
    ids=["one_dimension", "toys"],
)
def test_one_command_makes_the_picture(command, tmp_path):
    file = tmp_path / "new" / "picture.png"
    script, *options = command
    ended = call(importlib.import_module(script).main, script, *options, "--out", file)
    assert ended.code == 0, ended.err
    assert file.read_bytes().startswith(b"\x89PNG")
