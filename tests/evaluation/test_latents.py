"""Images decoded from latents, their own and those between two images."""

from __future__ import annotations

import pytest
import torch
from support.image_models import make, raw

from impflow_zoo.evaluation.latents import through_latents


@pytest.mark.parametrize("n", [1, 3, 4, 10])
def test_decoded_images_are_the_images_and_ways_begin_and_end_at_them(n: int) -> None:
    model = make("five-bit-grey")
    images = raw(model, n)
    decoded, ways = through_latents(model, images)
    shown = images // 8 * 8
    assert torch.equal(decoded, shown)
    side = int(n**0.5)
    ways = ways.unflatten(0, (side, side))
    assert torch.equal(ways[:, 0], shown[:side])
    if side > 1:
        assert torch.equal(ways[:, -1], shown[-side:])


def test_between_two_images_latents_are_as_long_as_the_noise() -> None:
    model = make()
    images = raw(model, 36)
    _, ways = through_latents(model, images)
    assert ways.shape == images.shape
    half = model.decode(_quarter(model, images))
    assert torch.equal(ways.unflatten(0, (6, 6))[0, 1], model.to_data(half)[0])


def _quarter(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    z = model.encode(model.dequantise(images, torch.full(images.shape, 0.5).double()))
    angle = torch.tensor(torch.pi / 10).double()
    return (angle.cos() * z[0] + angle.sin() * z[30])[None]


def test_the_way_between_two_labelled_images_keeps_the_label_of_the_first() -> None:
    model = make(context_columns=("label",), classes=3)
    images, label = raw(model, 2), torch.tensor([2, 0], dtype=torch.uint8)[:, None, None, None]
    labelled = torch.cat((images, label.expand(2, 1, 4, 4)), dim=1)
    decoded, way = through_latents(model, labelled, steps=5)
    assert torch.equal(decoded, images)
    assert torch.equal(way[0], images[0])
    assert not torch.equal(way[-1], images[1])
    labelled[1, -1] = 2
    _, way = through_latents(model, labelled, steps=5)
    assert way.shape == (5, *model.config.shape)
    assert torch.equal(way[-1], images[1])
