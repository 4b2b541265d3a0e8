"""Pictures show every pixel, and densities where there is data."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_models import make, raw

from impflow_zoo import ImpFlow, TabularConfig
from impflow_zoo.plots import conditional, pictures
from impflow_zoo.plots.pictures import draw_curves, draw_density, draw_images, pairs, plane

if TYPE_CHECKING:
    from matplotlib.figure import Figure

pytest.importorskip("matplotlib")
SIZES = {"blocks": 2, "hidden_features": (8, 8)}


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


def test_the_picture_of_a_model_shows_images_decoded_between_and_samples(tmp_path: Path) -> None:
    model = make("five-bit-grey")
    images = raw(model, 40)
    draw_density(model, images, tmp_path / "out.png")
    side, gap = 4, 2
    width = 4 * (6 * (side + gap) + gap) - 2 * gap
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width == 900 // width * width


def test_a_picture_has_no_density_outside_of_bounds() -> None:
    bounds = {"a": (0.0, 1.0), "b": (0.0, None)}
    model = ImpFlow(TabularConfig(2, columns=("a", "b"), bounds=bounds, **SIZES)).eval()
    _, density = plane(model, torch.rand(50, 2).double(), size=50).axes
    (mesh,) = density.collections
    b, a = np.indices((50, 50)) / 49 * 1.16 - 0.08  # roughly: the picture has margins of 8 %
    shown = mesh.get_array().reshape(50, 50)
    assert (shown[(a < -0.02) | (a > 1.02) | (b < -0.02)] == 0).all()
    assert (shown[(a > 0.1) & (a < 0.9) & (b > 0.1)] > 0).all()


@pytest.mark.parametrize(("scale", "aspect"), [(1.5, 1.0), (3e4, "auto")])
def test_columns_of_other_scales_fill_the_picture(scale: float, aspect: float | str) -> None:
    model = ImpFlow(TabularConfig(2, **SIZES)).eval()
    rows = torch.rand(50, 2).double() * torch.tensor([1.0, scale])
    assert [axes.get_aspect() for axes in plane(model, rows, size=50).axes] == 2 * [aspect]


def test_a_single_column_has_a_picture(tmp_path: Path) -> None:
    model = ImpFlow(TabularConfig(1, columns=("a",), periodic={"a": 360.0}, **SIZES)).eval()
    draw_density(model, 360 * torch.rand(50, 1).double(), tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_labels_of_large_numbers_stand_apart() -> None:
    rows = torch.linspace(2500, 25_000, 100)[:, None].repeat(1, 6)
    figure = pairs(rows, None, list("abcdef"))
    figure.draw_without_rendering()
    for axes in figure.axes[-6:]:
        labels = [label.get_window_extent() for label in axes.get_xticklabels()]
        digit = labels[-1].width / 5
        assert all(left.x1 + digit < right.x0 for left, right in pairwise(labels))


def test_close_values_of_a_curve_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(pictures, "_save", lambda save, *_, **__: drawn.append(save.__self__))
    points = [(1000 * i, 60 * i, -3.0459 + 5e-5 * i) for i in range(8)]
    draw_curves([("", "log_likelihood", [points])], [""], Path("curve.png"))
    (figure,) = drawn
    figure.draw_without_rendering()
    assert figure.axes[0].yaxis.get_offset_text().get_text() == ""


@pytest.mark.parametrize("bounds", [{}, {"k": (0.0, None)}])
def test_calibration_takes_rounded_columns_with_the_noise_of_their_steps(
    bounds: dict[str, tuple[float | None, float | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that come from the model lie in its 50 % intervals half of the time."""
    config = {"columns": ("k",), "rounding": {"k": 1.0}, "context_columns": ("c",)}
    torch.manual_seed(0)
    model = ImpFlow(TabularConfig(1, 1, bounds=bounds, **config, **SIZES)).eval()
    context = torch.randn(2000, 1)
    k = model.sample(1, context, rounded=True)[:, 0]
    shown: list[torch.Tensor] = []
    monkeypatch.setattr(conditional, "_calibration", lambda *given: shown.append(given[-1]))
    monkeypatch.setattr(pictures, "_save", lambda *_, **__: None)
    draw_density(model, torch.cat((k, context.double()), dim=1), Path("picture.png"))
    within = ((shown[0] - 0.5).abs() < 0.25).double().mean()
    assert float(within) == pytest.approx(0.5, abs=0.05)
