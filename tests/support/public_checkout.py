"""A made-up checkout of the public ImpFlow code: files of its layout, names and mistakes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["made_up"]

# As broken as the real files: an import that torch no longer has, a colon that is missing.
FILES = {
    "broyden.py": """
from termcolor import colored

def broyden(g, x0, steps):
    x0.view(len(x0), -1)
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
            z = broyden(lambda z: x + self.nnet_x(x) - self.nnet_z(z) - z, x, 60)
            if logpx is None:
                return z
            x, z = x.requires_grad_(), z.requires_grad_()
            return z, logpx - (slope(self.nnet_x, x) - slope(self.nnet_z, z))[:, None]

    def inverse(self, z):
        return broyden(lambda x: z + self.nnet_z(z) - self.nnet_x(x) - x, z, 60)

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


def made_up(folder: Path) -> Path:
    """Write the files."""
    for name, text in FILES.items():
        path = folder / "lib" / "layers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
