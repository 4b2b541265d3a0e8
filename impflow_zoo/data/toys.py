"""Two-dimensional toys, drawn with torch, with the sizes and scales of the flow papers.

References:
    FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models,
    Grathwohl et al., 2019, https://arxiv.org/abs/1810.01367

    Residual Flows for Invertible Generative Modeling, Chen et al., 2019,
    https://arxiv.org/abs/1906.02735
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from impflow_zoo.data.source import DataError, TableSource
from impflow_zoo.data.torus import draw_angles

__all__ = ["TOYS", "Toy", "open_toy"]

_TURN = 2 * math.pi


@dataclass(frozen=True)
class Toy:
    """A distribution on the plane, or of two angles.

    Arguments:
        draw: `n` independent points, float64 with shape `(n, 2)`, from a generator.
        entropy: differential entropy in nats, the negated score of the best possible model. In
            closed form for `checkerboard`, else by quadrature of the density to 1e-5; None if the
            density is not known.
        columns: names of the columns.
    """

    draw: Callable[[int, Generator], Tensor]
    entropy: float | None = None
    columns: tuple[str, str] = ("x", "y")


def open_toy(name: str, n: int = 10_000, seed: int = 0) -> TableSource:
    """Draw a toy.

    Arguments:
        name: one of `TOYS`.
        n: number of points.
        seed: seed of the generator; the same name, size and seed give the same points.

    Returns:
        The points as a table with columns `x` and `y`; `phi` and `psi` for the torus.

    Raises:
        DataError: for an unknown name, or a size below one.

    Example:
        >>> open_toy("checkerboard", 4).rows([0, 1]).shape
        torch.Size([2, 2])
    """
    if name not in TOYS:
        raise DataError(f"unknown toy {name!r}, choose one of: {', '.join(TOYS)}")
    if n < 1:
        raise DataError(f"toy:{name}: the size must be at least 1, not {n}")
    points = TOYS[name].draw(n, Generator().manual_seed(seed))
    return TableSource(f"toy:{name}", points, TOYS[name].columns)


def _uniform(generator: Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _choice(generator: Generator, n: int, options: int) -> Tensor:
    return torch.randint(options, (n,), generator=generator)


def _polar(radius: Tensor | float, angle: Tensor) -> Tensor:
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)


def _swissroll(n: int, generator: Generator) -> Tensor:
    angle = 1.5 * math.pi * (1 + 2 * _uniform(generator, n))
    return (_polar(angle, angle) + _normal(generator, n, 2)) / 5


def _eight_gaussians(n: int, generator: Generator) -> Tensor:
    centre = _polar(4.0, _choice(generator, n, 8).double() * (_TURN / 8))
    return (centre + 0.5 * _normal(generator, n, 2)) / math.sqrt(2)


def _pinwheel(n: int, generator: Generator) -> Tensor:
    arm = _choice(generator, n, 5)
    along = 1 + 0.3 * _normal(generator, n)
    across = 0.1 * _normal(generator, n)
    angle = arm * (_TURN / 5) + 0.25 * along.exp()
    return 2 * (_polar(along, angle) + _polar(across, angle + _TURN / 4))


def _concentric(rings: int, noise: float) -> Callable[[int, Generator], Tensor]:
    """Circles of radius `3 k / rings`, as likely each, blurred."""

    def draw(n: int, generator: Generator) -> Tensor:
        radius = 3 * (1 + _choice(generator, n, rings)) / rings
        circle = _polar(radius, _TURN * _uniform(generator, n))
        return circle + noise * _normal(generator, n, 2)

    return draw


def _moons(n: int, generator: Generator) -> Tensor:
    side = 1 - 2 * _choice(generator, n, 2).double()
    centre = torch.stack(((1 - side) / 2, (1 - side) / 4), dim=-1)
    arc = side[:, None] * _polar(1.0, math.pi * _uniform(generator, n))
    blurred = centre + arc + 0.1 * _normal(generator, n, 2)
    return 2 * blurred + torch.tensor([-1.0, -0.2], dtype=torch.float64)


def _two_spirals(n: int, generator: Generator) -> Tensor:
    side = 1 - 2 * _choice(generator, n, 2).double()
    angle = 1.5 * _TURN * _uniform(generator, n).sqrt()
    arm = _polar(angle, math.pi - angle) + 0.5 * _uniform(generator, n, 2)
    return side[:, None] * arm / 3 + 0.1 * _normal(generator, n, 2)


def _checkerboard(n: int, generator: Generator) -> Tensor:
    x = 4 * _uniform(generator, n) - 2
    # Unit squares; the columns alternate between the two parities of rows.
    row = 2 * _choice(generator, n, 2) - 2 + x.floor().long() % 2
    return 2 * torch.stack((x, row + _uniform(generator, n)), dim=-1)


#: The toys by their names (swissroll, 8gaussians, pinwheel, circles, moons, 2spirals, checkerboard,
#: rings, torus).
TOYS: dict[str, Toy] = {
    "swissroll": Toy(_swissroll, entropy=2.66965),
    "8gaussians": Toy(_eight_gaussians, entropy=2.83158),
    "pinwheel": Toy(_pinwheel),
    "circles": Toy(_concentric(2, noise=0.24), entropy=3.26814),
    "moons": Toy(_moons, entropy=2.39388),
    "2spirals": Toy(_two_spirals, entropy=2.64545),
    "checkerboard": Toy(_checkerboard, entropy=math.log(32)),
    "rings": Toy(_concentric(4, noise=0.08), entropy=2.62318),
    "torus": Toy(draw_angles, entropy=9.87947, columns=("phi", "psi")),
}
