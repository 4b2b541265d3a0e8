"""Laws of every layer beside the blocks: inverses, log-determinants, derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from nflows.transforms import Transform
from support.blocks import dense_logdet
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

from impflow_zoo import RadialTransform, SplineConfig, SplineFlow
from impflow_zoo.transforms.actnorm import ActNorm
from impflow_zoo.transforms.dequantisation import VariationalDequantisation
from impflow_zoo.transforms.images import ImageLogit
from impflow_zoo.transforms.interval import Interval
from impflow_zoo.transforms.whitening import Whitening


@dataclass(frozen=True)
class Layer:
    """A constructor, and the shape of a row of its input; `inside` maps normal draws to inputs."""

    make: Callable[[], Transform]
    shape: tuple[int, ...] = (3,)
    inside: Callable[[Tensor], Tensor] = torch.clone


LAYERS = {
    "actnorm": Layer(lambda: ActNorm(3)),
    "actnorm-image": Layer(lambda: ActNorm(2), (2, 3, 3)),
    "whitening": Layer(lambda: Whitening(3)),
    "whitening-image": Layer(lambda: Whitening(2), (2, 3, 3)),
    "radial": Layer(lambda: RadialTransform(3)),
    "radial-one-feature": Layer(lambda: RadialTransform(1), (1,)),
    "radial-one-bin": Layer(lambda: RadialTransform(3, bins=1)),
    "radial-image": Layer(lambda: RadialTransform(2), (2, 3, 3)),
    "bounded": Layer(
        lambda: Interval((-1.0, -2.0, -1.0), (2.0, torch.inf, 1.0)), inside=torch.tanh
    ),
    "dequantisation": Layer(
        lambda: VariationalDequantisation(1, levels=4, width=3), (1, 3, 4), torch.sigmoid
    ),
    "dequantisation-of-colours": Layer(
        lambda: VariationalDequantisation(3, bins=1), (3, 3, 2), torch.sigmoid
    ),
    "logit": Layer(ImageLogit, (1, 3, 3), torch.sigmoid),
    "spline": Layer(lambda: SplineFlow(SplineConfig(3, blocks=1)).transform),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
both_ways = pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])


def build(name: str, dtype: torch.dtype = torch.float64) -> Transform:
    """A layer in evaluation mode whose every parameter has moved from where it starts."""
    torch.manual_seed(0)
    layer = LAYERS[name].make().double().train()
    layer(draw(name, 40))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer.to(dtype).eval()


def draw(name: str, rows: int = 6) -> Tensor:
    torch.manual_seed(1)
    return LAYERS[name].inside(1.5 * torch.randn(rows, *LAYERS[name].shape, dtype=torch.float64))


def start(name: str, layer: Transform, *, inverse: bool) -> tuple[Tensor, Callable[..., Tensor]]:
    """Where a direction starts, and the map."""
    x = draw(name)
    return (layer(x)[0].detach(), layer.inverse) if inverse else (x, layer.forward)


@every_layer
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_there_and_back(name, dtype):
    layer, x = build(name, dtype), draw(name).to(dtype)
    z, logabsdet = layer(x)
    back, inverse_logabsdet = layer.inverse(z)
    error = 2e4 * torch.finfo(dtype).eps  # steep places amplify rounding
    torch.testing.assert_close(back, x, rtol=error, atol=error)
    torch.testing.assert_close(inverse_logabsdet, -logabsdet, rtol=error, atol=error)
    assert z.dtype == logabsdet.dtype == back.dtype == dtype


@every_layer
@both_ways
def test_logdet_is_that_of_the_jacobian(name, inverse):
    x, way = start(name, build(name), inverse=inverse)
    expected = dense_logdet(lambda x: way(x)[0], x)
    torch.testing.assert_close(way(x)[1], expected, rtol=1e-9, atol=1e-9)


@every_layer
@both_ways
def test_gradients_of_inputs_and_parameters(name, inverse):
    layer = build(name)
    x, way = start(name, layer, inverse=inverse)
    x = x[:3].requires_grad_()
    parameters = [p.requires_grad_() for p in layer.parameters()]
    fast = {"fast_mode": True, "atol": 1e-6, "rtol": 1e-4}
    assert torch.autograd.gradcheck(lambda x, *_: way(x), (x, *parameters), **fast)


@pytest.mark.parametrize("name", [name for name in LAYERS if "radial" in name or "deq" in name])
@both_ways
def test_second_derivatives(name, inverse):
    layer = build(name)
    x, way = start(name, layer, inverse=inverse)
    assert torch.autograd.gradgradcheck(
        lambda x, *_: way(x), (x[:3].requires_grad_(), *layer.parameters()), fast_mode=True
    )


@pytest.mark.parametrize("name", sorted(LAYERS.keys() - {"spline"}))  # nflows' layer refuses vmap
@both_ways
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("mode", [jacrev, jacfwd], ids=["reverse", "forward mode"])
def test_jacobians_of_rows_by_vmap(name, inverse, mode):
    """torch's own `solve` mixes up matrices in forward mode within `vmap` (2.13)."""
    x, way = start(name, build(name), inverse=inverse)
    expected = torch.stack([jacrev(lambda row: way(row[None])[0][0])(row) for row in x])
    found = vmap(mode(lambda row: way(row[None])[0][0]))(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@every_layer
@both_ways
def test_rows_know_nothing_of_each_other(name, inverse):
    x, way = start(name, build(name), inverse=inverse)
    found = [torch.cat(parts) for parts in zip(*map(way, x.split(2)), strict=True)]
    for part, expected in zip(found, way(x), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(LAYERS.keys() - {"spline"}))  # nflows' layer needs a row
@both_ways
def test_no_rows(name, inverse):
    x, way = start(name, build(name), inverse=inverse)
    z, logabsdet = way(x[:0])
    assert z.shape == x[:0].shape
    assert logabsdet.shape == (0,)
