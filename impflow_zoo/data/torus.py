"""A density of two angles, similar to phi and psi along the backbone of a protein."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

__all__ = ["draw_angles", "log_density"]

# Normal densities wrapped around the torus: weight, centre, spreads in degrees, correlation. What
# is left of the weight is uniform.
_PARTS = (
    (0.40, (297.0, 317.0), (14.0, 16.0), -0.6),  # helices
    (0.22, (240.0, 135.0), (22.0, 20.0), -0.4),  # sheets
    (0.13, (290.0, 147.0), (12.0, 16.0), 0.0),
    (0.10, (270.0, 0.0), (24.0, 30.0), -0.8),  # on the seam of psi
    (0.06, (57.0, 45.0), (10.0, 14.0), -0.6),  # left-handed helices
    (0.05, (0.0, 200.0), (30.0, 20.0), 0.5),  # on the seam of phi
)


def draw_angles(n: int, generator: Generator) -> Tensor:
    """`n` independent pairs of angles, float64 with shape `(n, 2)`, in degrees from 0 to 360."""
    weights = [weight for weight, *_ in _PARTS]
    chances = torch.tensor([*weights, 1 - sum(weights)], dtype=torch.float64)
    part = torch.multinomial(chances, n, replacement=True, generator=generator)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    angles = 360 * torch.rand(n, 2, generator=generator, dtype=torch.float64)
    for i, (_, centre, (phi, psi), rho) in enumerate(_PARTS):
        factor = [[phi, 0.0], [rho * psi, math.sqrt(1 - rho**2) * psi]]
        rows = noise[part == i] @ noise.new_tensor(factor).T + noise.new_tensor(centre)
        angles[part == i] = rows.remainder(360)
    return angles


def log_density(angles: Tensor) -> Tensor:
    """Logarithm of the density of `draw_angles`, per square degree, `[N]`.

    Arguments:
        angles: in degrees from 0 to 360, `[N, 2]`.
    """
    angles = angles.double()
    floor = (1 - sum(weight for weight, *_ in _PARTS)) / 360**2
    density = torch.full((len(angles),), floor, dtype=torch.float64)
    turns = 360 * torch.cartesian_prod(*2 * [torch.arange(-2.0, 3.0, dtype=torch.float64)])
    for weight, centre, (phi, psi), rho in _PARTS:
        away = angles - angles.new_tensor(centre) + turns[:, None]
        u, v = away[..., 0] / phi, away[..., 1] / psi
        square = (u**2 - 2 * rho * u * v + v**2) / (1 - rho**2)
        peak = weight / (2 * math.pi * phi * psi * math.sqrt(1 - rho**2))
        density += peak * (-0.5 * square).exp().sum(dim=0)
    return density.log()
