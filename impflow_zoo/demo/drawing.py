"""Pictures of the page, as images in memory."""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from impflow_zoo.demo.exhibits import Exhibit
from impflow_zoo.evaluation.latents import through_latents
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.preprocessing import TablePreprocessing
from impflow_zoo.plots.conditional import as_label
from impflow_zoo.plots.pictures import draw_images, pairs, plane

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Map", "density_map", "images_picture", "samples_picture", "way_picture"]

_SAMPLES, _IMAGES = 1000, 9
_CELLS = 100  # of a map, along each side
_STEPS = 9  # images on the way from one to another
_MARK = 7  # pixels from the middle of a mark to its ends


@dataclass(frozen=True)
class Map:
    """A picture of a density in the plane, with the places of its points.

    Arguments:
        picture: rows and density side by side.
        low, high: ends of both axes, in the data's units.
        panels: left, top, right and bottom of the panels, in pixels.
    """

    picture: Image.Image
    low: tuple[float, float]
    high: tuple[float, float]
    panels: list[tuple[float, ...]]

    @property
    def middle(self) -> tuple[float, float]:
        """The point in the middle."""
        x, y = ((a + b) / 2 for a, b in zip(self.low, self.high, strict=True))
        return x, y

    def point(self, pixel: tuple[float, float]) -> tuple[float, float] | None:
        """The point of the plane under a pixel; None beside the panels."""
        for left, top, right, bottom in self.panels:
            across = (pixel[0] - left) / (right - left)
            up = (bottom - pixel[1]) / (bottom - top)
            if 0 <= across <= 1 and 0 <= up <= 1:
                x, y = (a + t * (b - a) for a, b, t in self._ends((across, up)))
                return x, y
        return None

    def marked(self, point: tuple[float, float]) -> Image.Image:
        """The picture with a cross at a point, in each panel."""
        across, up = ((value - a) / (b - a) for a, b, value in self._ends(point))
        picture = self.picture.copy()
        draw = ImageDraw.Draw(picture)
        for left, top, right, bottom in self.panels:
            x, y = left + across * (right - left), bottom - up * (bottom - top)
            for line in ((x - _MARK, y, x + _MARK, y), (x, y - _MARK, x, y + _MARK)):
                draw.line(line, fill="white", width=5)
                draw.line(line, fill="red", width=2)
        return picture

    def _ends(self, values: tuple[float, float]) -> zip[tuple[float, float, float]]:
        return zip(self.low, self.high, values, strict=True)


@functools.lru_cache(maxsize=32)
def density_map(exhibit: Exhibit) -> Map:
    """The map of a model of the plane."""
    rows = exhibit.model.to_data(exhibit.rows.rows(range(min(2000, len(exhibit.rows)))))
    title = "data" if exhibit.held_out else "samples"
    figure = plane(exhibit.model, rows, _CELLS, title)
    picture, axes = _rendered(figure), figure.axes[0]
    (x0, x1), (y0, y1) = (map(float, ends()) for ends in (axes.get_xlim, axes.get_ylim))
    panels = []
    for box in (axes.get_window_extent() for axes in figure.axes):
        edges = (box.x0, picture.height - box.y1, box.x1, picture.height - box.y0)
        panels.append(tuple(map(float, edges)))
    return Map(picture, (x0, y0), (x1, y1), panels)


@functools.lru_cache(maxsize=64)
def samples_picture(
    exhibit: Exhibit, seed: int, temperature: float, context: tuple[float, ...] = ()
) -> Image.Image:
    """Samples, beside held-out rows if there are any.

    Of a conditional model they are those at one context. Of a single column, given a context, the
    predictive density is drawn too.

    Raises:
        ModelError: if the model takes no temperature or no such context.
    """
    model, generator = exhibit.model, torch.Generator().manual_seed(seed)
    shape = model.config.shape
    given = None if not context else torch.tensor([context]).to(next(model.parameters()))
    count = _IMAGES if len(shape) == 3 else _SAMPLES
    drawn = model.sample(exhibit.in_time(count), given, temperature, generator)
    samples = drawn.reshape(-1, *shape).cpu()
    rows = exhibit.first_rows(count)
    if rows is not None:
        rows, _ = model.parted(rows)
    if len(shape) == 3:
        if rows is None:
            return images_picture([samples], ["samples of the model"])
        return images_picture([rows, samples], ["held-out images", "samples of the model"])
    if rows is not None:
        rows = model.to_data(rows)
    if given is not None:
        if shape == (1,):
            return _rendered(_predictive(exhibit, samples, given))
        rows = None  # which have other contexts
    return _rendered(pairs(samples, rows, list(model.config.column_names)))


def way_picture(model: FlowModel, images: Tensor) -> Image.Image:
    """The way from the first of two images to the second, through their latents."""
    _, between = through_latents(model, images, _STEPS)
    return images_picture([between], ["line by line, from one to the other"])


@torch.no_grad()
def _predictive(exhibit: Exhibit, samples: Tensor, context: Tensor) -> Figure:
    from matplotlib.figure import Figure

    model, rows = exhibit.model, exhibit.rows.rows(range(min(500, len(exhibit.rows))))
    column = model.to_data(rows)[:, 0]
    margin = 0.05 * float(column.max() - column.min())
    x = torch.linspace(float(column.min()) - margin, float(column.max()) + margin, 300)
    grid = x[:, None].to(context)
    assert isinstance(model.preprocessing, TablePreprocessing)
    inside = model.preprocessing.inside(grid)
    density = torch.zeros(len(x))
    found = model.log_prob(grid[inside], context.expand(int(inside.sum()), -1))
    density[inside.cpu()] = found.exp().float().cpu()
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    ends = (float(x[0]), float(x[-1]))
    axes.hist(samples[:, 0].numpy(), 60, range=ends, density=True, color="#bfdbfe")
    axes.plot(x.numpy(), density.numpy(), color="#1d4ed8")
    axes.set_xlabel(as_label(model.config.column_names[0]))
    axes.set_title("predictive density, samples below it")
    return figure


def _rendered(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


def images_picture(groups: list[Tensor], titles: Sequence[str] = ()) -> Image.Image:
    """Grids of images, uint8 `[N, C, H, W]`, side by side."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.png"
        draw_images(groups, path, titles)
        return Image.open(path).convert("RGB")
