"""The public ImpFlow code as a side of the speed benchmark, on a made-up checkout of its layout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import Case, make_side
from classifier_block import Case as ClassifierCase
from counting import counting
from public_code import NoCheckoutError, classifier_block, public_side, read_code

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
        self.nnet_x, self.nnet_z = nnet_x, nnet_z
        self.sums = settings.get("brute_force", settings.get("n_dist"))
        self.nnet_x_copy = copy.deepcopy(nnet_x)

    def forward(self, x, logpx=None):
        if (self.sums or x.ndimension() < 4) or (x.ndimension() == 2 and x.shape[1] <= 10)
            z = broyden(lambda z: x + self.nnet_x(x) - self.nnet_z(z) - z, x, 200)
            if logpx is None:
                return z
            x, z = x.requires_grad_(), z.requires_grad_()
            return z, logpx - (slope(self.nnet_x, x) - slope(self.nnet_z, z))[:, None]

    def inverse(self, z):
        return broyden(lambda x: z + self.nnet_z(z) - self.nnet_x(x) - x, z, 200)

def slope(net, x):
    J = torch.stack([torch.func.jacrev(net)(row[None]).view(row.numel(), -1) for row in x])
    return torch.logdet(torch.eye(x[0].numel()) + J)
""",
    "base/mixed_lipschitz.py": """
from torch._six import container_abcs
import torch
from torch import nn

class Normed:
    def vectors(self, n, m):
        self.register_buffer("u", torch.zeros(m))
        self.register_buffer("v", torch.zeros(n))

    def compute_weight(self, update, **norms):
        self.updates.append((update, norms))
        with torch.no_grad():
            return self.weight / torch.clamp(self.norm() / self.coeff, min=1)

class InducedNormLinear(Normed, nn.Linear):
    def __init__(self, n, m, coeff, **norms):
        super().__init__(n, m)
        self.coeff, self.norms, self.updates = coeff, norms, []
        self.vectors(n, m)

    def norm(self):
        return torch.linalg.matrix_norm(self.weight, 2)

    def forward(self, x):
        return nn.functional.linear(x, self.compute_weight(False), self.bias)

class InducedNormConv2d(Normed, nn.Conv2d):
    def __init__(self, n, m, size, stride, padding, coeff, **norms):
        super().__init__(n, m, size, stride, padding)
        self.coeff, self.norms, self.updates = coeff, norms, []

    def norm(self):
        image = (1, -1, *self.size)
        conv = lambda v: nn.functional.conv2d(v.view(image), self.weight, None, 1, self.padding)
        one = torch.zeros(self.weight.shape[1] * self.size[0] * self.size[1]).to(self.weight)
        return torch.linalg.matrix_norm(torch.func.jacrev(conv)(one).flatten(0, 3), 2)

    def forward(self, x):
        self.size = x.shape[2:]
        pixels = 1 if self.weight.shape[-1] == 1 else x.shape[2] * x.shape[3]
        self.vectors(self.weight.shape[1] * pixels, self.weight.shape[0] * pixels)
        return self._conv_forward(x, self.compute_weight(False), self.bias)
""",
    "base/activations.py": """
import math
import torch
from torch import nn

class Sin(nn.Module):
    def forward(self, x):
        return torch.sin(2 * math.pi * x) / (2 * math.pi)

class Swish(nn.Module):
    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x):
        return x * torch.sigmoid(nn.functional.softplus(self.beta) * x) / 1.1
""",
}
CASE = Case((2,), 2, (8, 8), 5)
TABLE = Case((3,), 2, (8, 8), 5)
IMAGE = Case((1, 4, 4), 2, (3,), 2, lipschitz=0.9)


@pytest.fixture
def checkout(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "lib" / "layers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize("case", [CASE, TABLE, IMAGE], ids=["plane", "table", "image"])
def test_it_computes_our_function_with_our_weights(checkout, case):
    case = replace(case, logdet="exact")
    ours, public = make_side("impflow", case), public_side(case, checkout)
    for task in ("log_prob", "sample"):
        ours.prepare(task)
        public.prepare(task)
        assert torch.allclose(public.run(task), ours.run(task), atol=1e-4)
    assert not public.x.requires_grad


def test_its_block_as_a_layer_computes_our_function(checkout):
    ours = ClassifierCase(channels=2, hidden=3, size=4, batch=5).block()
    theirs, after_step = classifier_block(ours, checkout, n_dist="poisson")
    x = torch.randn(5, 2, 4, 4)
    assert torch.allclose(theirs(x), ours.eval().encode(x), atol=1e-4)
    layers = [m for m in theirs.modules() if hasattr(m, "updates")]
    before = [len(layer.updates) for layer in layers]
    after_step()
    assert [len(layer.updates) for layer in layers] == [n + 1 for n in before]


def test_the_error_of_a_sample_is_told_from_exact_roots(checkout):
    public = public_side(CASE, checkout)
    assert public.sample_error(public_side(CASE, checkout, exact=True)) < 1e-5
    for block in public.modules.modules():
        if hasattr(block, "block"):
            block.block.inverse = lambda z: 1.01 * z
    error = public.sample_error(public_side(CASE, checkout, exact=True))
    assert error > 1e-3


def test_a_step_of_training_updates_every_norm_as_the_scripts_do(checkout):
    for case, norms in ((CASE, {"n_iterations": 20}), (IMAGE, {"atol": 1e-3, "rtol": 1e-3})):
        public = public_side(case, checkout)
        layers = [m for m in public.modules.modules() if hasattr(m, "updates")]
        assert len(layers) == 2 * 3 * 3  # blocks, nets and the copy of one, layers
        public.prepare("train")
        public.run("train")
        assert all(layer.updates[-1] == (True, {}) for layer in layers)
        assert all(layer.norms == norms for layer in layers)


def test_nets_are_counted_once_and_backward_passes_within_others(checkout):
    class Nested(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                torch.ones(1, requires_grad=True).sum().backward()
            return grad

    public = public_side(CASE, checkout)
    with counting(public) as counts:
        public.forward(public.x)
    assert counts.evaluations == 2 * (200 * 2 + 2 * 5)  # of each root and each row's Jacobian
    with counting(public) as counts:
        Nested.apply(torch.ones(1, requires_grad=True)).sum().backward()
    assert counts.products == len(public.nets) + 1


def test_a_folder_that_is_no_checkout_is_named(tmp_path, checkout):
    (checkout / "lib" / "layers" / "implicit_block.py").unlink()
    with pytest.raises(NoCheckoutError, match="no checkout of the public.*implicit_block"):
        read_code(checkout)
