"""Variational dequantisation; its laws are those of every layer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.image_sets import photograph, save
from support.small_models import write_image_recipe

from impflow_zoo import ResFlow, VariationalDequantisation
from impflow_zoo.training import train


def moved(
    levels: int = 4, dtype: torch.dtype = torch.float64, std: float = 1.0
) -> VariationalDequantisation:
    """A layer whose splines are bent."""
    torch.manual_seed(0)
    layer = VariationalDequantisation(1, levels, width=8).to(dtype)
    with torch.no_grad():
        for parameter in layer.last.parameters():
            parameter.normal_(std=std)
    return layer


def test_it_starts_as_the_identity():
    x = torch.rand(5, 3, 6, 4)
    z, logabsdet = VariationalDequantisation(3)(x)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(logabsdet, torch.zeros(5), rtol=0, atol=1e-4)


def test_cells_stay_and_order_within_a_cell_as_well():
    layer = moved()
    cells = torch.randint(4, (1, 1, 3, 3)).double()
    v = torch.rand(200, 1, 3, 3).double()
    z, _ = layer((cells + v) / 4)
    u = 4 * z - cells
    assert bool(((u >= 0) & (u < 1)).all())
    assert torch.equal(u.argsort(dim=0), v.argsort(dim=0))
    assert not torch.allclose(u, v, atol=0.05)


def test_noise_that_it_makes_is_a_density():
    """The slopes of each value's map have mean 1 over its cell."""
    layer, cells = moved(), torch.tensor([[[[0.0, 1.0], [3.0, 2.0]]]]).double()
    grid = (torch.arange(20_000).double() + 0.5) / 20_000
    x = ((cells + 0.5) / 4).repeat(len(grid), 1, 1, 1)
    x[:, 0, 1, 0] = (3 + grid) / 4  # one value crosses its cell
    _, logabsdet = layer(x)
    own = _slope_of_value(layer, x)
    others = logabsdet - own  # which know the cell of this value, and nothing more of it
    torch.testing.assert_close(others, others[:1].expand(len(grid)))
    assert float(own.exp().mean()) == pytest.approx(1, rel=1e-6)


def _slope_of_value(layer: VariationalDequantisation, x: torch.Tensor) -> torch.Tensor:
    """`log du/dv` of the value at row 1 and column 0, by autograd."""
    x = x.clone().requires_grad_()
    z, _ = layer(x)
    (gradient,) = torch.autograd.grad(z[:, 0, 1, 0].sum(), x)
    return gradient[:, 0, 1, 0].log()


def test_values_out_of_range_stay():
    layer, x = moved(), torch.full((1, 1, 1, 3), 0.4).double()
    x[..., 0], x[..., 2] = -0.3, 1.2
    for way in (layer.forward, layer.inverse):
        z, _ = way(x)
        assert torch.equal(z[..., ::2], x[..., ::2])
    ends = torch.tensor([[[[0.0, 1.0]]]]).double()
    torch.testing.assert_close(layer(ends)[0], ends)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1 / 256), (torch.float64, 1e-9)])
def test_any_weights_are_invertible(dtype, tolerance):
    """Slopes of almost zero lose digits in the inverse, but values stay in their cells."""
    layer = moved(levels=256, dtype=dtype, std=30)
    x = torch.rand(50, 1, 8, 8, dtype=dtype)
    z, logabsdet = layer(x)
    back, inverse_logabsdet = layer.inverse(z)
    assert bool(logabsdet.isfinite().all())
    assert bool(inverse_logabsdet.isfinite().all())
    torch.testing.assert_close(back, x, rtol=0, atol=tolerance)


def test_its_score_comes_near_the_entropy_and_stays_above_it():
    """Whole numbers in few cells: uniform noise costs bits, learned noise gives most of them back.

    The mean of `-log p(k + v)` cannot be less than the entropy of the whole numbers.
    """
    torch.manual_seed(0)
    odds = torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05, 0.0, 0.0, 0.0])
    entropy = float(torch.distributions.Categorical(odds).entropy())
    numbers = torch.distributions.Categorical(odds).sample((4000, 1, 1, 1)).float()

    def nats(layer: VariationalDequantisation | None) -> float:
        """Mean of a Gaussian behind the layer, both fitted."""
        mean, scale = torch.tensor(0.3, requires_grad=True), torch.tensor(-1.5, requires_grad=True)
        learned = [mean, scale, *(layer.parameters() if layer else ())]
        optimizer = torch.optim.Adam(learned, lr=0.02)
        for step in range(301):
            x = (numbers + torch.rand(numbers.shape)) / 8
            z, logabsdet = layer(x) if layer else (x, torch.zeros(len(x)))
            normal = torch.distributions.Normal(mean, scale.exp())
            loss = -(normal.log_prob(z).flatten() + logabsdet).mean()
            if step < 300:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return loss.item() + math.log(8)

    uniform = nats(None)
    learned = nats(VariationalDequantisation(1, 8, width=8))
    assert entropy < learned < uniform - 0.02


def test_a_recipe_trains_it(tmp_path):
    rng = np.random.default_rng(0)
    images = save(tmp_path / "set", test=[photograph(rng, 8, 8) for _ in range(8)])
    config = {"dequantisation": "variational", "bits": 5}
    recipe = write_image_recipe(tmp_path, images, config=config)
    train(recipe, out=tmp_path / "run", progress=False)
    model = ResFlow.from_pretrained(tmp_path / "run", verify=True)
    (layer,) = (m for m in model.modules() if isinstance(m, VariationalDequantisation))
    assert layer.levels == 32
    assert all(p.any() for p in layer.parameters())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            lambda: VariationalDequantisation(3)(torch.zeros(2, 1, 4, 4)),
            r"\[B, 3, H, W\] is",
        ),
        (lambda: VariationalDequantisation(3)(torch.zeros(2, 3)), "images are needed"),
        (lambda: VariationalDequantisation(1)(torch.zeros(2, 1, 4, 4).double()), "takes torch"),
        (lambda: VariationalDequantisation(1, levels=0), "levels=0, .*whole numbers from 1"),
        (lambda: VariationalDequantisation(1, bins=1.5), "bins=1.5: whole numbers from 1"),
    ],
)
def test_mistakes(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()
