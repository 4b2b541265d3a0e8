"""The public ImpFlow code as a side of the speed benchmark, on a made-up checkout of its layout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from cases import Case, counting, make_side
from public_code import NotThereError, public_side, read_code

# As broken as the real files: an import that torch no longer has, a colon that is missing.
FILES = {
    "broyden.py": """
from termcolor import colored

def broyden(g, x0, steps):
    for _ in range(steps):
        x0 = x0 + g(x0)
    return x0
""",
    "implicit_block.py": """
import copy
import torch
from torch import nn
from .broyden import broyden
import lib.layers.base as base_layers

class imBlock(nn.Module):
    def __init__(self, nnet_x, nnet_z, **settings):
        super().__init__()
        self.nnet_x, self.nnet_z, self.settings = nnet_x, nnet_z, settings
        self.nnet_x_copy = copy.deepcopy(nnet_x)

    def forward(self, x, logpx):
        if (self.settings or self.training) and (x.ndimension() == 2 and x.shape[1] <= 10)
            z = broyden(lambda z: x + self.nnet_x(x) - self.nnet_z(z) - z, x, 200)
            x, z = x.requires_grad_(), z.requires_grad_()
            return z, logpx - (slope(self.nnet_x, x) - slope(self.nnet_z, z))[:, None]

    def inverse(self, z):
        return broyden(lambda x: z + self.nnet_z(z) - self.nnet_x(x) - x, z, 200)

def slope(net, x):
    J = torch.stack([torch.func.jacrev(net)(row) for row in x])
    return torch.logdet(torch.eye(x.shape[1]) + J)
""",
    "base/mixed_lipschitz.py": """
from torch._six import container_abcs
import torch
from torch import nn

class InducedNormLinear(nn.Linear):
    def __init__(self, n, m, coeff, **norms):
        super().__init__(n, m)
        self.coeff, self.updates = coeff, []

    def compute_weight(self, update, **norms):
        self.updates.append(norms)
        with torch.no_grad():
            norm = torch.linalg.matrix_norm(self.weight, 2)
            return self.weight / torch.clamp(norm / self.coeff, min=1)

    def forward(self, x):
        return nn.functional.linear(x, self.compute_weight(False), self.bias)
""",
    "base/activations.py": """
import math
import torch
from torch import nn

class Sin(nn.Module):
    def forward(self, x):
        return torch.sin(2 * math.pi * x) / (2 * math.pi)
""",
}
CASE = Case((3,), 2, (8, 8), 5)


@pytest.fixture
def checkout(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "lib" / "layers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_it_computes_our_function_with_our_weights(checkout):
    ours, public = make_side("impflow", CASE), public_side(CASE, checkout)
    for task in ("log_prob", "sample"):
        ours.prepare(task)
        public.prepare(task)
        assert torch.allclose(public.run(task), ours.run(task), atol=1e-4)
    assert not public.x.requires_grad


def test_the_error_of_a_sample_is_told_from_exact_roots(checkout):
    public = public_side(CASE, checkout)
    assert public.sample_error(public_side(CASE, checkout, exact=True)) < 1e-5
    for block in public.modules.modules():
        if hasattr(block, "block"):
            block.block.inverse = lambda z: 1.01 * z
    error = public.sample_error(public_side(CASE, checkout, exact=True))
    assert error > 1e-3


def test_a_step_of_training_updates_every_norm(checkout):
    public = public_side(CASE, checkout)
    layers = [m for m in public.modules.modules() if hasattr(m, "updates")]
    assert len(layers) == 2 * 3 * 3  # blocks, nets and the copy of one, layers
    before = [len(layer.updates) for layer in layers]
    public.prepare("train")
    with counting(public) as counts:
        public.run("train")
    assert all(len(layer.updates) > n for layer, n in zip(layers, before, strict=True))
    assert counts.evaluations > 0
    assert counts.products >= len(public.nets) == 4


def test_a_folder_that_is_no_checkout_is_named(tmp_path, checkout):
    (checkout / "lib" / "layers" / "implicit_block.py").unlink()
    with pytest.raises(NotThereError, match="no checkout of the public.*implicit_block"):
        read_code(checkout)
