"""The toys against densities written down independently, and against scikit-learn's shapes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from impflow_zoo.data import TOYS, DataError, open_source, open_toy
from impflow_zoo.data.torus import log_density

ROWS = 20_000
NODES = 600


def points(name: str, n: int = ROWS, seed: int = 0) -> Tensor:
    return open_toy(name, n, seed).rows(range(n))


# A mixture of products f(x) f(y): centres, Gaussian width, width of a uniform part, weights.
Mixture = tuple[np.ndarray, float, float, np.ndarray]


def legendre(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return low + (high - low) * (nodes + 1) / 2, weights / 2


def swissroll() -> Mixture:
    t, w = legendre(1.5 * np.pi, 4.5 * np.pi)
    return np.stack((t * np.cos(t), t * np.sin(t)), 1) / 5, 1 / 5, 0.0, w


def eight_gaussians() -> Mixture:
    t = np.arange(8) * np.pi / 4
    centres = 4 * np.stack((np.cos(t), np.sin(t)), 1) / math.sqrt(2)
    return centres, 0.5 / math.sqrt(2), 0.0, np.full(8, 1 / 8)


def rings(radii: list[float], noise: float) -> Mixture:
    t = 2 * np.pi * np.arange(NODES) / NODES
    circle = np.stack((np.cos(t), np.sin(t)), 1)
    centres = np.concatenate([r * circle for r in radii])
    return centres, noise, 0.0, np.full(len(centres), 1 / len(centres))


def moons() -> Mixture:
    t, w = legendre(0, np.pi)
    upper = np.stack((np.cos(t), np.sin(t)), 1)
    lower = np.stack((1 - np.cos(t), 0.5 - np.sin(t)), 1)
    return 2 * np.concatenate((upper, lower)) + [-1, -0.2], 0.2, 0.0, np.tile(w, 2) / 2


def two_spirals() -> Mixture:
    end = 3 * np.pi
    t, w = legendre(0, end)
    arm = np.stack((-t * np.cos(t) + 0.25, t * np.sin(t) + 0.25), 1) / 3
    return np.concatenate((arm, -arm)), 0.1, 0.5 / 3, np.tile(w * 2 * t / end, 2) / 2


DENSITIES: dict[str, Callable[[], Mixture]] = {
    "swissroll": swissroll,
    "8gaussians": eight_gaussians,
    "circles": lambda: rings([1.5, 3.0], 0.24),
    "moons": moons,
    "2spirals": two_spirals,
    "rings": lambda: rings([0.75, 1.5, 2.25, 3.0], 0.08),
}


def factor(x: Tensor, centres: Tensor, sigma: float, box: float) -> Tensor:
    """Density of a Gaussian, blurred by a uniform of some width, at `x` for each centre."""
    away = (x[:, None] - centres) / sigma
    if not box:
        return torch.exp(-0.5 * away**2) / (sigma * math.sqrt(2 * math.pi))
    half = box / (2 * sigma)
    return (torch.special.ndtr(away + half) - torch.special.ndtr(away - half)) / box


@pytest.mark.parametrize("name", DENSITIES)
def test_entropy_is_that_of_the_density(name: str) -> None:
    centres, sigma, box, weights = DENSITIES[name]()
    c, w = torch.from_numpy(centres), torch.from_numpy(weights)
    step = sigma / 4
    line = torch.arange(-5, 5, step, dtype=torch.float64)
    grid = factor(line, c[:, 0], sigma, box) @ (w[:, None] * factor(line, c[:, 1], sigma, box).T)
    assert float(grid.sum() * step**2) == pytest.approx(1, abs=1e-6)
    entropy = float(-torch.special.xlogy(grid, grid).sum() * step**2)
    assert TOYS[name].entropy == pytest.approx(entropy, abs=1e-5)


@pytest.mark.parametrize("name", DENSITIES)
def test_points_follow_the_density(name: str) -> None:
    centres, sigma, box, weights = DENSITIES[name]()
    c, x = torch.from_numpy(centres), points(name, 2000)
    terms = factor(x[:, 0], c[:, 0], sigma, box) * factor(x[:, 1], c[:, 1], sigma, box)
    surprise = -(terms @ torch.from_numpy(weights)).log()
    entropy = TOYS[name].entropy
    assert entropy is not None
    assert abs(float(surprise.mean()) - entropy) < 4 * float(surprise.std()) / math.sqrt(len(x))


def test_checkerboard_is_uniform_on_eight_squares() -> None:
    x = points("checkerboard")
    assert TOYS["checkerboard"].entropy == pytest.approx(5 * math.log(2))
    cell = ((x + 4) / 2).floor().long()
    assert (int(cell.min()), int(cell.max())) == (0, 3)
    occupied, counts = (cell[:, 0] * 4 + cell[:, 1]).unique(return_counts=True)
    assert len(occupied) == 8
    assert len({int(i + i // 4) % 2 for i in occupied}) == 1
    expected = len(x) / 8
    assert float(((counts - expected) ** 2 / expected).sum()) < 29.9  # chi-square, 7 df, 1e-4
    inside = (x + 4) % 2 / 2
    assert float((inside.mean(0) - 0.5).abs().max()) < 4 * math.sqrt(1 / 12 / len(x))


def test_pinwheel_has_five_arms_alike() -> None:
    x = points("pinwheel")
    arms = math.tau / 5
    turned = x @ torch.tensor(
        [[math.cos(arms), math.sin(arms)], [-math.sin(arms), math.cos(arms)]], dtype=torch.float64
    )
    assert largest_gap(x, turned[torch.randperm(len(x))]) < 0.03
    # The radius survives the twist: 2 |(a, b)|, a ~ N(1, .3), b ~ N(0, .1).
    expected = 4 * (1 + 0.3**2 + 0.1**2)
    square = x.square().sum(1)
    assert abs(float(square.mean()) - expected) < 4 * float(square.std()) / math.sqrt(len(x))
    untwisted = (torch.atan2(x[:, 1], x[:, 0]) - 0.25 * (x.norm(dim=1) / 2).exp()) % arms
    assert float(torch.cos(5 * untwisted).mean()) > 0.8


def largest_gap(a: Tensor, b: Tensor) -> float:
    """The largest distance of the distribution functions along a few directions."""
    gaps = []
    for angle in torch.arange(8) * math.pi / 8:
        direction = torch.tensor([angle.cos(), angle.sin()], dtype=torch.float64)
        u, v = (a @ direction).sort().values, (b @ direction).sort().values
        at = torch.cat((u, v))
        below = [torch.searchsorted(s, at, right=True) / len(s) for s in (u, v)]
        gaps.append(float((below[0] - below[1]).abs().max()))
    return max(gaps)


@pytest.mark.parametrize("name", ["swissroll", "circles", "moons"])
def test_shape_is_that_of_scikit_learn(name: str) -> None:
    made = pytest.importorskip("sklearn.datasets")
    reference = {
        "swissroll": lambda: made.make_swiss_roll(ROWS, noise=1, random_state=0)[0][:, [0, 2]] / 5,
        "circles": lambda: made.make_circles(ROWS, noise=0.08, factor=0.5, random_state=0)[0] * 3,
        "moons": lambda: made.make_moons(ROWS, noise=0.1, random_state=0)[0] * 2 + [-1, -0.2],
    }[name]()
    assert largest_gap(points(name), torch.from_numpy(reference)) < 0.025  # 2.4e-5 by chance


def test_the_torus_has_the_density_that_its_parts_say() -> None:
    line = torch.arange(0, 360, 1.0, dtype=torch.float64)  # a periodic integrand: exact
    density = log_density(torch.cartesian_prod(line, line)).exp()
    assert float(density.sum()) == pytest.approx(1, abs=1e-9)
    entropy = float(-torch.special.xlogy(density, density).sum())
    assert TOYS["torus"].entropy == pytest.approx(entropy, abs=1e-5)
    x = points("torus")
    assert (x >= 0).all()
    assert (x < 360).all()
    surprise = -log_density(x)
    assert abs(float(surprise.mean()) - entropy) < 4 * float(surprise.std()) / math.sqrt(len(x))


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("n", [1, 2, 777])
def test_any_size_seeded(name: str, n: int) -> None:
    source = open_toy(name, n, seed=3)
    rows = source.rows(range(n))
    assert (len(source), source.name, source.columns) == (
        n,
        f"toy:{name}",
        ("phi", "psi") if name == "torus" else ("x", "y"),
    )
    assert (rows.shape, rows.dtype) == ((n, 2), torch.float64)
    assert rows.isfinite().all()
    torch.manual_seed(0)  # the global generator has no part in it
    assert open_toy(name, n, seed=3).rows(range(n)).equal(rows)
    assert not open_toy(name, n, seed=4).rows(range(n)).equal(rows)


def test_splits_are_different_samples() -> None:
    opened = [open_source("toy:moons", split) for split in (None, "train", "validation", "test")]
    rows = [source.rows(range(len(source))) for source in opened]
    assert all(len(r) == 10_000 for r in rows)
    assert len(torch.cat(rows).unique(dim=0)) == 40_000
    assert open_source("toy:moons", "test", columns=["x", "y"]).rows([5]).equal(rows[3][[5]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: open_toy("spiral"), r"unknown toy 'spiral', .*swissroll, 8gaussians"),
        (lambda: open_source("toy:spiral"), r"unknown toy 'spiral'"),
        (lambda: open_toy("moons", 0), r"toy:moons: .*size .*at least 1, not 0"),
        (lambda: open_source("toy:moons", "dev"), r"no split 'dev', .*train, valid"),
        (lambda: open_source("toy:moons", columns=["z"]), r"its columns are x, y, not z"),
        (lambda: open_source("toy:moons", revision="main"), r"revision does not apply"),
        (lambda: open_source("toys:moons"), r"toys:moons: unknown kind of data"),
    ],
)
def test_mistakes(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()
