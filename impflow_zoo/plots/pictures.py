"""Pictures of densities and samples. matplotlib is imported when one is drawn."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from impflow_zoo.evaluation.latents import through_latents
from impflow_zoo.models.fields import ModelError, require_names
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.metrics import METRICS, Metric
from impflow_zoo.models.preprocessing import TablePreprocessing
from impflow_zoo.models.writing import write_whole
from impflow_zoo.plots.conditional import as_label, draw_conditional, samples_of_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Points",
    "check_columns",
    "check_library",
    "draw_curves",
    "draw_density",
    "draw_images",
    "draw_samples",
    "output_file",
    "pairs",
    "plane",
]

_SAMPLES = 20_000
Points = Sequence[Sequence[float]]  # rows seen, seconds and value of each validation

_DPI = 110
_SHOWN = 36  # images of a grid
_ALIKE = 3  # ranges that differ by no larger factor share a scale
_PAIRED = 6  # columns a pair plot shows
_TICKS = 4  # intervals of a column there: labels of five digits have room
_GAP = 2  # pixels between images
_WIDTH = 900  # pixels that small pictures are enlarged to
_LETTERS = 28  # pixels that letters above a grid are high, at most
_TITLES = ("held-out images", "decoded again", "between two of them", "samples of the model")
_DATA, _MODEL = "#c2410c", "#1d4ed8"


def output_file(path: str | Path, suffixes: tuple[str, ...]) -> Path:
    """Check that a file can be written, before its contents are computed.

    Raises:
        ModelError: if it is a folder, its folder does not exist, or its ending is not one of the
            suffixes.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise ModelError(f"{path}: the folder {path.parent} does not exist")
    if path.suffix.lower() not in suffixes:
        raise ModelError(f"{path}: a name ending in {' or '.join(suffixes)} is needed")
    return path


def check_library(model: FlowModel) -> None:
    """Check that pictures of a model's density can be drawn, before it is scored.

    Raises:
        ModelError: if matplotlib is needed and not installed; grids of images do without.
    """
    if len(model.config.shape) != 3:
        _figure(1, 1)


def check_columns(model: FlowModel, columns: Sequence[str]) -> None:
    """Check that a picture of a model can show these columns.

    Raises:
        ModelError: if one is none of the model's, or the picture has no pairs of columns.
    """
    names, config = model.columns, model.config
    if columns and (len(names) < 3 or config.context_features is not None):
        raise ModelError("--columns: this model's picture shows no pairs of columns")
    require_names("--columns", columns, names)


def draw_density(
    model: FlowModel, rows: Tensor, path: Path, seed: int = 0, columns: Sequence[str] = ()
) -> None:
    """Draw a learned density and the data it was evaluated on.

    Two features: a map of the density and a scatter plot of the rows. More features: for each pair
    of columns the rows below the diagonal and samples above it, histograms of both on the diagonal;
    six of the columns are shown if there are more, or those that are named. Images: grids of rows,
    of decoded rows, of interpolations in latent space, and of samples; with labels, a row of
    samples for each label.
    Conditional models: see `draw_conditional`.

    Arguments:
        model: a model in evaluation mode.
        rows: data in their own units, `[N, D]`, or uint8 images `[N, C, H, W]`.
        path: PNG file to write.
        seed: seed of the samples.
        columns: names of those to show in pairs; see above if empty.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(model.config.shape) == 3:
        if model.config.classes:
            return draw_images([samples_of_labels(model, generator)], path)
        rows, samples = rows[:_SHOWN], model.sample(_SHOWN, generator=generator)
        draw_images([rows, *through_latents(model, rows), samples], path, _TITLES)
        return
    rows = model.to_data(rows)
    if model.config.context_features is not None:
        figure = _figure(12, 3.8)
        draw_conditional(figure, model, rows, seed)
    elif model.config.shape == (2,):
        figure = plane(model, rows)
    else:
        samples = model.sample(_SAMPLES, generator=generator)
        figure = pairs(samples, rows, list(model.config.column_names), columns)
    _save(figure.savefig, path, dpi=_DPI)


def draw_samples(samples: Tensor, path: Path) -> None:
    """Scatter two-dimensional samples `[N, 2]`; lay out images `[N, C, H, W]`."""
    if samples.dim() == 4:
        draw_images([samples], path)
        return
    figure = _figure(5, 5)
    axes = figure.add_subplot(aspect=_aspect(samples))
    x, y = samples.T.cpu()
    axes.scatter(x, y, s=2, color=_MODEL, alpha=0.6, linewidths=0)
    _save(figure.savefig, path, dpi=_DPI)


def draw_images(groups: list[Tensor], path: Path, titles: Sequence[str] = ()) -> None:
    """Lay images out in square grids, one grid beside the other.

    Arguments:
        groups: uint8 images `[N, C, H, W]`, one tensor for each grid.
        path: PNG file to write.
        titles: titles of the grids.
    """
    from PIL import Image, ImageDraw, ImageOps

    height, width = (side + _GAP for side in groups[0].shape[-2:])
    across = [math.ceil(len(images) ** 0.5) for images in groups]
    down = max(math.ceil(len(images) / n) for images, n in zip(groups, across, strict=True))
    lefts = [0, *itertools.accumulate(width * n + _GAP for n in across)]
    picture = Image.new("RGB", (lefts.pop() - 2 * _GAP, height * down - _GAP), "white")
    for images, n, left in zip(groups, across, lefts, strict=True):
        for i, image in enumerate(images.cpu()):
            pixels = image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
            picture.paste(Image.fromarray(pixels), (left + i % n * width, i // n * height))
    enlarged = max(1, _WIDTH // picture.width)
    picture = ImageOps.scale(picture, enlarged, Image.Resampling.NEAREST)
    if titles:
        room = (1.8 * enlarged * width * n / len(t) for n, t in zip(across, titles, strict=True))
        size = int(min(_LETTERS, *room))  # of letters, in pixels: each title is above its own grid
        picture = ImageOps.expand(picture, (0, 2 * size, 0, 0), "white")
        for title, left in zip(titles, lefts, strict=True):
            place = (enlarged * left + size // 4, size // 4)
            ImageDraw.Draw(picture).text(place, title, fill="black", font_size=size)
    _save(picture.save, path)


def draw_curves(
    curves: Sequence[tuple[str, str, Sequence[Points]]], names: Sequence[str], path: Path
) -> None:
    """Draw validation values against rows seen and against time, one line of plots a data set.

    Arguments:
        curves: for each data set its name, the metric, and for each model `(rows seen, seconds,
            value)` of each validation.
        names: of the models, for the legend, which a single model does without.
        path: PNG file to write.
    """
    figure = _figure(8, 2.6 * max(1, len(curves)))
    lines = figure.subplots(max(1, len(curves)), 2, sharey="row", squeeze=False)
    for axes, (data, metric, models) in zip(lines, curves, strict=False):
        _curves(axes, models, names, METRICS[metric])
        axes[0].set_title(data, loc="left", fontsize=10)
        if len(names) > 1:
            axes[0].legend(fontsize=8)
    _save(figure.savefig, path, dpi=_DPI)


def _curves(
    axes: Sequence[Axes], curves: Sequence[Points], names: Sequence[str], metric: Metric
) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    for points, name, colour in zip(curves, names, (_MODEL, _DATA), strict=False):
        rows, seconds, values = zip(*points, strict=True)
        for ax, x in zip(axes, (rows, [s / 60 for s in seconds]), strict=True):
            ax.plot(x, values, color=colour, marker=".", linewidth=1.2, label=name)
    for ax, label in zip(axes, ("rows seen", "minutes"), strict=True):
        ax.set_xlabel(label)
        ax.grid(alpha=0.3)
    axes[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[0].xaxis.set_major_locator(MaxNLocator(6))
    axes[0].set_ylabel(f"validation, {metric.unit}")
    axes[0].ticklabel_format(axis="y", useOffset=False)  # whole values, however close
    better_first = sorted((p[2] for points in curves for p in points), reverse=metric.sign > 0)
    tail = sorted(better_first[: max(2, 4 * len(better_first) // 5)])
    if tail and tail[0] < tail[-1]:  # the first steps would flatten the rest
        space = 0.1 * (tail[-1] - tail[0])
        axes[0].set_ylim(tail[0] - space, tail[-1] + space)


def _save(save: Callable[..., Any], path: Path, **options: Any) -> None:
    picture = io.BytesIO()
    save(picture, format="png", **options)
    write_whole(path, picture.getvalue())


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ModelError("pictures need matplotlib: pip install 'impflow_zoo[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained")


@torch.no_grad()
def plane(model: FlowModel, rows: Tensor, size: int = 200, title: str = "data") -> Figure:
    """Rows in the plane, `[N, 2]`, under a title, and the density on a grid around them."""
    low, high = rows.amin(dim=0), rows.amax(dim=0)
    margin = 0.08 * (high - low)
    edges = zip((low - margin).tolist(), (high + margin).tolist(), strict=True)
    x, y = (torch.linspace(*ends, size) for ends in edges)
    grid = torch.cartesian_prod(x, y).to(next(model.parameters()))
    assert isinstance(model.preprocessing, TablePreprocessing), "images are no planes"
    density, inside = grid.new_zeros(len(grid)), model.preprocessing.inside(grid)
    parts = grid[inside].split(10_000)
    density[inside] = torch.cat([model.log_prob(part) for part in parts]).exp()
    figure = _figure(9, 4.4)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    left.scatter(*rows[:_SAMPLES].T.numpy(), s=1.5, color=_DATA, alpha=0.5, linewidths=0)
    left.set_title(title)
    right.pcolormesh(x.numpy(), y.numpy(), density.view(size, size).T.cpu().numpy(), cmap="viridis")
    right.set_title("learned density")
    for axes in (left, right):
        axes.set_aspect(_aspect(rows))
    return figure


def _aspect(rows: Tensor) -> Literal["equal", "auto"]:
    """One scale for both axes, if the ranges of the columns are alike."""
    ranges = (rows.amax(dim=0) - rows.amin(dim=0)).tolist()
    return "equal" if max(ranges) <= _ALIKE * min(ranges) else "auto"


def pairs(
    samples: Tensor, rows: Tensor | None, names: list[str], wanted: Sequence[str] = ()
) -> Figure:
    """Samples, and rows if there are any, in the planes of each pair of columns."""
    from matplotlib.ticker import MaxNLocator

    total, shown = len(names), len(wanted) or min(len(names), _PAIRED)
    columns = [names.index(name) for name in wanted] or [
        round(i * (total - 1) / max(shown - 1, 1)) for i in range(shown)
    ]
    names, samples = [names[i] for i in columns], samples[:, columns]
    groups = [(samples.double(), _MODEL, "samples of the model")]
    if rows is not None:
        groups.insert(0, (rows[:, columns].double(), _DATA, "held-out data (below the diagonal)"))
    rows = groups[0][0]
    low, high = rows.amin(dim=0), rows.amax(dim=0)
    margin = 0.05 * (high - low)
    limits = list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))
    figure = _figure(2.0 * shown, 2.0 * shown)
    grid = figure.subplots(shown, shown, squeeze=False)
    for i, j in itertools.product(range(shown), repeat=2):
        axes = grid[i][j]
        if i == j:
            for values, colour, label in groups:
                column, (start, end) = values[:, i], limits[i]
                seen = column[(start <= column) & (column <= end)].numpy(force=True)
                look = {"range": limits[i], "color": colour, "label": label, "linewidth": 1.4}
                axes.hist(seen, 40, density=len(seen) > 0, histtype="step", **look)
            axes.set_yticks([])
        else:
            source, colour, _ = groups[0 if i > j else -1]
            x, y = source[: len(rows), [j, i]].T.numpy(force=True)
            axes.scatter(x, y, s=2, color=colour, alpha=0.5, linewidths=0)
            axes.set_ylim(*limits[i])
        axes.set_xlim(*limits[j])
        axes.xaxis.set_major_locator(MaxNLocator(_TICKS, steps=(1, 2, 5, 10)))
        axes.set(xlabel=as_label(names[j]), ylabel=as_label(names[i]))
        axes.tick_params(labelsize=7)
        axes.label_outer()
    legend = grid[0][0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside upper center", ncols=1 if shown < 3 else 2, frameon=False)
    if shown < total:
        figure.supxlabel(f"{shown} of {total} columns", fontsize=9)
    return figure
