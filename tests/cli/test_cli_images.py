"""Pictures of image models, through the command line, and images that come back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from support.image_models import make
from support.image_sets import image_set, pictures

from impflow_zoo import ImpFlow
from impflow_zoo.models.rows import open_rows


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "model"
    make("plain", ImpFlow, size=8).save_pretrained(folder)
    return folder


def test_samples_are_drawn_as_a_grid(model, run, tmp_path) -> None:
    assert run("sample", model, "-n", 3, "--out", tmp_path / "s.png").code == 0
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.mode == "RGB"
    assert run("sample", model, "-n", 3, "--out", tmp_path / "s.csv").code == 2


@pytest.mark.parametrize("bits", [8, 5])
def test_images_come_back_to_the_bit(bits, tmp_path) -> None:
    model = make("plain", ImpFlow, size=8, bits=bits)
    rows = open_rows(model.config, str(image_set(tmp_path, pictures(3))), "test").rows(range(3))
    x = model.dequantise(rows, torch.full(rows.shape, 0.5, dtype=torch.float64)).float()
    with torch.no_grad():
        back = model.to_data(model.decode(model.encode(x)))
    assert torch.equal(back, rows // 2 ** (8 - bits) * 2 ** (8 - bits))


def test_evaluation_draws_data_beside_samples(model, run, tmp_path) -> None:
    data = image_set(tmp_path / "data", pictures(2))
    out = tmp_path / "e.png"
    assert run("evaluate", model, "--dataset", data, "--picture", out).code == 0
    assert out.exists()
