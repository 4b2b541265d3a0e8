"""The radial layer; its laws are those of every layer."""

from __future__ import annotations

import math

import pytest
import torch
from support.small_models import write_recipe

from impflow_zoo import (
    ImageConfig,
    ImpFlow,
    RadialTransform,
    ResFlow,
    SplineConfig,
    SplineFlow,
    TabularConfig,
    register_block,
)
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.training import train


def moved(features: int = 3, dtype: torch.dtype = torch.float64, **options: object):
    """A layer whose spline is bent."""
    torch.manual_seed(0)
    layer = RadialTransform(features, **options).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


@pytest.mark.parametrize("shape", [(50, 5), (4, 5, 3, 2)], ids=["rows", "maps"])
def test_it_starts_as_the_identity(shape):
    x = torch.randn(shape) * torch.randn(shape[0], *[1] * (len(shape) - 1)).exp()
    z, logabsdet = RadialTransform(5)(x)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(logabsdet, torch.zeros(shape[0]))


def test_directions_stay_and_lengths_keep_their_order():
    layer, x = moved(), torch.randn(500, 3).double() * torch.randn(500, 1).double().exp()
    z, _ = layer(x)
    direction = torch.nn.functional.normalize
    torch.testing.assert_close(direction(z), direction(x))
    assert torch.equal(z.norm(dim=1).argsort(), x.norm(dim=1).argsort())


def test_the_same_spline_at_every_position_of_a_map():
    layer, x = moved(), torch.randn(4, 3, 2, 5).double()
    z, logabsdet = layer(x)
    rows, terms = layer(x.movedim(1, -1).reshape(-1, 3))
    torch.testing.assert_close(z.movedim(1, -1).reshape(-1, 3), rows)
    torch.testing.assert_close(logabsdet, terms.view(4, 10).sum(dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_zero_and_huge_rows_have_values_and_derivatives(dtype, direction):
    """The map is the identity there, so its derivative is 1."""
    layer, largest = moved(dtype=dtype), torch.finfo(dtype).max / 4
    rows = [[0, 0, 0], [largest, -largest, 1], [torch.finfo(dtype).tiny, 0, 0], [1e4, 1, 1]]
    x = torch.tensor(rows, dtype=dtype, requires_grad=True)
    z, logabsdet = getattr(layer, direction)(x)
    assert torch.equal(z, x)
    assert torch.equal(logabsdet, torch.zeros(4, dtype=dtype))
    (gradient,) = torch.autograd.grad(z.sum() + logabsdet.sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


@pytest.mark.parametrize("side", [-1, 1])
def test_the_ends_of_the_spline_are_smooth(side):
    layer = moved(1, tail_bound=2.0)
    x = (side * 2 + torch.tensor([[-1e-9], [0.0], [1e-9]], dtype=torch.float64)).exp()
    z, logabsdet = layer(x)
    torch.testing.assert_close(z, x, rtol=1e-5, atol=0)
    torch.testing.assert_close(logabsdet, torch.zeros(3).double(), rtol=0, atol=1e-5)


def test_any_weights_are_invertible():
    """Bins of almost no width, and slopes of almost zero."""
    torch.manual_seed(0)
    layer, x = RadialTransform(3).double(), 3 * torch.randn(1000, 3).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=30)
    z, logabsdet = layer(x)
    back, _ = layer.inverse(z)
    assert bool(logabsdet.isfinite().all())
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-9)  # slopes of 1e-3 and steep bins


def test_it_makes_a_density_of_heavy_tails_gaussian():
    """Student's t in 8 dimensions: its exact score is met, which no Gaussian comes near."""
    torch.manual_seed(0)
    features, freedom = 8, 3.0

    def rows(n: int) -> torch.Tensor:
        chi2 = torch.distributions.Chi2(freedom).sample((n, 1))
        return torch.randn(n, features) * (freedom / chi2).sqrt()

    def normal(z: torch.Tensor) -> torch.Tensor:
        return -0.5 * z.square().sum(dim=1) - 0.5 * features * math.log(2 * math.pi)

    layer, x = RadialTransform(features), rows(2000)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(150):
        z, logabsdet = layer(x)
        loss = -(normal(z) + logabsdet).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = rows(4000)
    constant = (
        math.lgamma((freedom + features) / 2)
        - math.lgamma(freedom / 2)
        - features / 2 * math.log(freedom * math.pi)
    )
    exact = constant - (freedom + features) / 2 * (1 + test.square().sum(dim=1) / freedom).log()
    with torch.no_grad():
        z, logabsdet = layer(test)
    assert float((exact - normal(z) - logabsdet).mean()) < 0.05
    scale = test.square().mean().sqrt()  # of the best Gaussian
    gaussian = normal(test / scale) - features * scale.log()
    assert float((exact - gaussian).mean()) > 0.5


MODELS = {
    "tabular": lambda: ImpFlow(TabularConfig(3, blocks=2, hidden_features=(8,), radial=True)),
    "named block": lambda: ImpFlow(
        TabularConfig(3, blocks=("radial", "implicit"), hidden_features=(8,))
    ),
    "spline": lambda: SplineFlow(SplineConfig(3, blocks=2, whiten=True, radial=True)),
    "images": lambda: ResFlow(
        ImageConfig(1, (4, 4), blocks=(1, 1), width=4, whiten=True, radial=True)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_saved_loaded_and_inverted(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]()
    x = torch.rand(20, *model.config.shape)
    layers = [step for step in model.modules() if isinstance(step, RadialTransform)]
    assert len(layers) == {"tabular": 3, "named block": 1, "spline": 3, "images": 2}[name]
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.normal_(std=0.3)
    model.train().encode(x)
    model.eval().save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, verify=True)
    assert torch.equal(loaded.log_prob(x), model.log_prob(x))
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=1e-4, atol=1e-4)


def test_a_recipe_trains_it(tmp_path):
    recipe = write_recipe(tmp_path, config={"radial": True})
    train(recipe, out=tmp_path / "run", progress=False)
    model = ImpFlow.from_pretrained(tmp_path / "run", verify=True)
    layers = [step for step in model.modules() if isinstance(step, RadialTransform)]
    assert all(p.any() for layer in layers for p in layer.parameters())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: RadialTransform(3)(torch.zeros(2, 4)), r"\[B, 3\] or \[B, 3, H, W\] is needed"),
        (lambda: RadialTransform(3)(torch.zeros(2, 3).double()), "takes torch.float32"),
        (lambda: RadialTransform(0), "at least one feature"),
        (lambda: RadialTransform(2, bins=0), "one bin"),
        (lambda: RadialTransform(2.5), "features=2.5, bins=24"),
        (lambda: RadialTransform(2, tail_bound=0), "a bound between 0 and 100"),
        (lambda: ImageConfig(1, (4, 4), blocks=(1,), radial=True), "radial=True: .*without whiten"),
    ],
)
def test_mistakes(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


def test_angles_stay_as_they_are():
    config = TabularConfig(
        3, columns=("a", "b", "c"), periodic={"a": 1.0}, blocks=1, hidden_features=(8,), radial=True
    )
    sizes = {s.features for s in ImpFlow(config).modules() if isinstance(s, RadialTransform)}
    assert sizes == {2}
    with pytest.raises(ConfigError, match="with angles blocks are"):
        TabularConfig(3, columns=("a", "b", "c"), periodic={"a": 1.0}, blocks=("radial",))


def test_the_name_is_taken():
    with pytest.raises(ModelError, match="'radial' is already registered"):
        register_block("radial")(lambda config, number: RadialTransform(config.features))
