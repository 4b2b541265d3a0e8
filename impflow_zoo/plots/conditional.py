"""The picture of a conditional density: one column against a context column, and calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from impflow_zoo.evaluation.predictive import centred, drawn, pit
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.texts import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["as_label", "draw_conditional", "samples_of_labels"]

_BINS = 24  # of the context, with equally many rows each
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_DATA, _MODEL = "#c2410c", "#1d4ed8"


def as_label(name: str) -> str:
    """A label that shows a name as it is; matplotlib sets formulas between dollars."""
    return printable(name).replace("$", r"\$")


def draw_conditional(figure: Figure, model: FlowModel, rows: Tensor, seed: int) -> None:
    """Draw the predictive density of the first column against its most correlated context column.

    In each bin of the context column, samples at the contexts of its rows are pooled. The left plot
    shows the rows, and density and quantiles of the samples. The right plot shows the histogram of
    the ranks of the rows among their samples (PIT), and the coverage of central intervals.

    Arguments:
        figure: the figure to draw in.
        model: a conditional model in evaluation mode.
        rows: held-out rows as they are in the data, the context's columns last. As in `evaluate`,
            columns that are rounded get noise.
        seed: seed of the samples and of this noise.
    """
    noise = torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed), dtype=rows.dtype)
    x, context = model.parted(model.dequantise(rows, noise))
    assert context is not None
    samples = drawn(model, context.to(next(model.parameters())), seed).double().cpu()
    together = torch.corrcoef(torch.cat((x[:, :1], context), dim=1).T)[0, 1:].abs()
    chosen = int(together.nan_to_num().argmax())
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.8, 1, 1))
    _predictive(left, x[:, 0], context[:, chosen].contiguous(), samples[:, :, 0])
    names = model.config.column_names
    given = model.config.context_columns or [f"c{i}" for i in range(len(together))]
    left.set_xlabel(as_label(given[chosen]))
    left.set_ylabel(as_label(names[0]))
    _calibration(middle, right, pit(*centred(model, samples, x)))


def samples_of_labels(model: FlowModel, generator: torch.Generator) -> Tensor:
    """As many images of each label as there are labels, one label after the other."""
    classes = model.config.classes
    assert classes is not None, "contexts are no labels"
    labels = torch.arange(classes)[:, None].to(next(model.parameters()))
    return model.sample(classes, labels, generator=generator).flatten(0, 1)


def _predictive(axes: Axes, x: Tensor, context: Tensor, samples: Tensor) -> None:
    edges = context.quantile(torch.linspace(0, 1, _BINS + 1, dtype=context.dtype)).unique()
    if len(edges) == 1:  # all contexts are the same
        edges = edges + edges.new_tensor((-0.5, 0.5))
    centres = (edges[:-1] + edges[1:]) / 2
    bins = torch.bucketize(context, edges[1:-1].contiguous())
    low, high = float(x.min()), float(x.max())
    pooled = [samples[bins == i].flatten() for i in range(len(centres))]
    density = torch.stack([torch.histc(part, 60, low, high) / max(1, len(part)) for part in pooled])
    axes.pcolormesh(
        edges.numpy(), torch.linspace(low, high, 61).numpy(), density.T.numpy(), cmap="Blues"
    )
    filled = [i for i, part in enumerate(pooled) if len(part)]
    levels = torch.tensor(_LEVELS, dtype=samples.dtype)
    lines = torch.stack([pooled[i].quantile(levels) for i in filled])
    axes.plot(centres[filled].numpy(), lines.numpy(), color=_MODEL, linewidth=1)
    axes.scatter(context.numpy(), x.numpy(), s=2, color=_DATA, alpha=0.5, linewidths=0)
    axes.set_title("predictive density, 5 to 95 % quantiles, held-out rows", fontsize=9)


def _calibration(histogram: Axes, coverage: Axes, places: Tensor) -> None:
    histogram.hist(places.numpy(), bins=20, range=(0, 1), density=True, histtype="step", lw=1.4)
    histogram.axhline(1, color="grey", linewidth=0.8)
    histogram.set_title("PIT of held-out rows", fontsize=9)
    levels = torch.linspace(0, 1, 51, dtype=torch.float64)
    held = (places - 0.5).abs()[..., None] < levels / 2
    coverage.plot(levels.numpy(), held.double().mean(dim=0).T.numpy(), color=_MODEL)
    coverage.plot((0, 1), (0, 1), color="grey", linewidth=0.8)
    for level in (0.5, 0.9):
        inside = float(((places - 0.5).abs() < level / 2).double().mean())
        coverage.plot(level, inside, "o", color=_DATA)
        coverage.annotate(f"{inside:.0%}", (level, inside), (4, -10), textcoords="offset points")
    coverage.set_title("rows within central intervals", fontsize=9)
