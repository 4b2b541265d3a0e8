"""Local norms of nets, and where they are largest."""

from __future__ import annotations

import torch

from impflow_zoo.testing.case import jacobian


def local_norms(net, x):
    """Spectral norms of the Jacobians, `[B]`."""
    return torch.linalg.matrix_norm(jacobian(net, x), 2)


def steepest(net, x, steps=30):
    """Points that gradient ascent on the local norms leads to."""
    for _ in range(steps):
        x = x.detach().requires_grad_()
        y = net(x)
        rows = [
            torch.autograd.grad(y[:, i].sum(), x, create_graph=True)[0] for i in range(y.shape[1])
        ]
        total = torch.linalg.matrix_norm(torch.stack(rows, dim=1), 2).sum()
        (slope,) = torch.autograd.grad(total, x)
        x = x + 0.1 * slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return x.detach()


def spectral_norm(weight):
    """The largest singular value of a matrix."""
    return float(torch.linalg.matrix_norm(weight.detach(), 2))
