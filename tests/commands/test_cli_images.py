"""Pictures of image models: grids of samples and of reconstructions, through the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_models import make
from support.image_sets import image_set, pictures

from impflow_zoo import ImpFlow
from impflow_zoo.evaluation import reconstruct
from impflow_zoo.models.fields import ModelError
from impflow_zoo.pictures import draw_images


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "model"
    make("plain", ImpFlow, size=8).save_pretrained(folder)
    return folder


def test_a_grid_shows_every_pixel(tmp_path: Path) -> None:
    images = torch.arange(5 * 3 * 2 * 2, dtype=torch.uint8).view(5, 3, 2, 2)
    draw_images([images], tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as file:
        picture = np.asarray(file)
    enlarged = picture.shape[1] // (3 * 2 + 2 * 2)
    pixels = picture[enlarged // 2 :: enlarged, enlarged // 2 :: enlarged]
    assert pixels.shape == (2 * 2 + 2, 3 * 2 + 2 * 2, 3)
    assert (pixels[:2, 4:6] == images[1].permute(1, 2, 0).numpy()).all()
    assert (pixels[4:, :2] == images[3].permute(1, 2, 0).numpy()).all()
    assert (pixels[4:, 8:] == 255).all()  # no sixth image


def test_samples_are_drawn_as_a_grid(model, run, tmp_path) -> None:
    assert run("sample", model, "-n", 3, "--out", tmp_path / "s.png").code == 0
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.mode == "RGB"
    assert run("sample", model, "-n", 3, "--out", tmp_path / "s.csv").code == 2


def test_images_come_back_to_the_bit(model, run, tmp_path) -> None:
    data = image_set(tmp_path / "data", pictures(3))
    out = tmp_path / "back.png"
    arguments = ("reconstruct", model, "--dataset", data, "-n", 3, "--picture", out, "--json")
    figures = run(*arguments).json
    assert figures["n"] == 3
    assert figures["largest_error"] == 0
    assert 0 < figures["largest_float_error"] < 1e-3
    assert out.exists()


def test_five_bits_come_back_as_five_bits(tmp_path) -> None:
    model = make("plain", ImpFlow, size=8, bits=5)
    data = image_set(tmp_path / "data", pictures(2))
    result = reconstruct(model, data, n=2)
    assert result.largest_error == 0
    assert bool((result.rows % 8 == 0).all())  # what the model is shown, not what it never sees
    assert result.rows.unique().numel() > 10


def test_a_wrong_inverse_is_seen(model, tmp_path, monkeypatch) -> None:
    loaded = ImpFlow.from_pretrained(model)
    data = image_set(tmp_path / "data", pictures(2))
    decode = loaded.decode
    monkeypatch.setattr(loaded, "decode", lambda *z: decode(*z) * 0.98)
    assert reconstruct(loaded, data, n=2).largest_error > 1
    with pytest.raises(ModelError, match="n=0: a whole number of at least 1"):
        reconstruct(loaded, data, n=0)


def test_evaluation_draws_data_beside_samples(model, run, tmp_path) -> None:
    data = image_set(tmp_path / "data", pictures(2))
    out = tmp_path / "e.png"
    assert run("evaluate", model, "--dataset", data, "--picture", out).code == 0
    assert out.exists()
