"""The parts of the page beside the picture, each made by one function."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from impflow_zoo.data import Source
from impflow_zoo.demo.drawing import density_map, images_picture, way_picture
from impflow_zoo.demo.exhibits import Exhibit, Rows
from impflow_zoo.demo.looks import on_step, table
from impflow_zoo.demo.numbers import bounds_of_nets, margin_in_words, numbers_of
from impflow_zoo.demo.words import in_a_line
from impflow_zoo.lipschitz.certify import Certificate, certify
from impflow_zoo.models.columns import ColumnsConfig
from impflow_zoo.models.texts import in_markdown
from impflow_zoo.transforms.base import ResidualBlock

with contextlib.suppress(ImportError):  # the command says what to install
    import gradio as gr

__all__ = [
    "certificate",
    "look_at",
    "numbers_of_point",
    "on_change",
    "picture_box",
    "point",
    "row",
    "slider",
    "slider_ends",
    "way",
]


def on_change(
    inputs: Sequence[Any], function: Callable[..., Any], outputs: Any, beside: Sequence[Any] = ()
) -> None:
    """Call a function whenever one of its inputs changes; while it works, only the last counts.

    Arguments:
        inputs: parts of the page.
        function: takes their values.
        outputs: parts of the page that show what it returns.
        beside: further inputs, whose changes call nothing.
    """
    gr.on(
        [component.change for component in inputs],
        function,
        [*inputs, *beside],
        outputs,
        trigger_mode="always_last",
        show_progress="minimal",
        api_visibility="private",
    )


def picture_box(*value: Any, **looks: Any) -> Any:
    """A place for a picture, which can be kept and enlarged, and is sent nowhere."""
    buttons = ["download", "fullscreen"]
    return gr.Image(
        *value, show_label=False, interactive=False, format="png", buttons=buttons, **looks
    )


def slider(*ends: float, **looks: Any) -> Any:
    """A slider that moves; it is wide enough for its ends to be read."""
    return gr.Slider(*ends, interactive=True, min_width=200, **looks)


def slider_ends(
    low: float, high: float, middle: float, within: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float, float, float]:
    """Ends, value and step of a slider, in numbers of few digits.

    The step is 1, 2 or 5 times a power of ten, so that the slider reaches whole numbers.

    Arguments:
        low, high: what the slider reaches; its ends are up to one step further out.
        middle: its value, on the nearest step.
        within: what its ends do not leave, and rather fall short of `low` and `high`.

    Example:
        >>> slider_ends(25.36, 100.16, 73.37)
        (25.3, 100.2, 73.4, 0.1)
    """
    finest = (high - low) / 400
    power = math.floor(math.log10(finest))
    steps = (float(f"{n}e{power}") for n in (0.5, 1, 2, 5))
    step = max(one for one in steps if one <= finest)
    # Division leaves 0.3 / 0.1 a little below 3.
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    if within[0] > -math.inf:
        first = max(first, math.ceil(within[0] / step))
    if within[1] < math.inf:
        last = min(last, math.floor(within[1] / step))
    number = min(max(round(middle / step), first), last)
    low, high, middle = (on_step(n * step, step) for n in (first, last, number))
    return low, high, middle, step


def point(exhibit: Exhibit) -> list[Any]:
    """The sliders of two coordinates, which stay on the map."""
    found, config = density_map(exhibit), exhibit.model.config
    assert isinstance(config, ColumnsConfig), "images are no points of a plane"
    with gr.Row():
        sliders = []
        for name, low, high, value in zip(
            exhibit.columns, found.low, found.high, found.middle, strict=True
        ):
            least, most = config.bounds_of(name)
            low = max(low, math.nextafter(least, math.inf))  # no density has a value on its bound
            high = min(high, math.nextafter(most, -math.inf))
            *ends, step = slider_ends(low, high, value, within=(low, high))
            sliders.append(slider(*ends, step=step, label=name))
    return sliders


def numbers_of_point(exhibit: Exhibit, sliders: Sequence[Any]) -> Any:
    """The numbers of the point that sliders give."""

    @in_a_line
    def numbers(*values: float) -> str:
        at = torch.tensor([values], dtype=torch.float64)
        return _figures(exhibit, Rows("the point", at))

    first = numbers(*(slider.value for slider in sliders))
    text = gr.Markdown(first, elem_id="numbers")
    on_change(sliders, numbers, text)
    return text


def row(exhibit: Exhibit, opened: Any) -> None:
    """A row of the held-out data or of samples, and its numbers.

    Arguments:
        exhibit: the model.
        opened: the tab, whose opening shows the first row.
    """
    image = len(exhibit.model.config.shape) == 3
    label = f"Row of {exhibit.rows_in_words}"
    with gr.Row():
        with gr.Column(min_width=280):
            number = slider(0, max(1, exhibit.count - 1), 0, step=1, label=label)
            # Many values of a table stand below its figures, where a page is narrow.
            if image:
                left = picture_box(height=240, visible=False)
            else:
                left = gr.Markdown(elem_id="numbers")
        with gr.Column(min_width=280):
            right = gr.Markdown(elem_id="numbers" if image else "row")

    @in_a_line
    def look(chosen: int) -> tuple[Any, Any]:
        rows = exhibit.rows  # drawn when somebody asks for one of them
        values, figures = look_at(exhibit, rows, chosen)
        if not image:
            return figures, values
        drawn = images_picture([exhibit.model.parted(rows.rows([int(chosen)]))[0]])
        return gr.update(value=drawn, visible=True), figures

    outputs = [left, right]
    on_change([number], look, outputs)
    # Nothing of the row is there yet, so its slider shows that it is being made.
    opened.select(look, number, outputs, show_progress_on=[number], api_visibility="private")


def look_at(exhibit: Exhibit, rows: Source, chosen: int) -> tuple[str, str]:
    """Two tables of a row: its values, empty for an image, and its numbers."""
    index = min(int(chosen), len(rows) - 1)  # a slider over a single row has two ends
    values = rows.rows([index])
    figures = _figures(exhibit, Rows(rows.name, values, index))
    if values.dim() > 2:
        return "", figures
    shown = [f"{value:.6g}" for value in values[0].tolist()]
    return table(("column", "value"), zip(exhibit.columns, shown, strict=True)), figures


def _figures(exhibit: Exhibit, row: Rows) -> str:
    lines = numbers_of(exhibit.model, row, exhibit.error_unit).lines
    return table(("figure", "value"), lines.items())


def way(exhibit: Exhibit) -> None:
    """The way from one image to another."""
    last = exhibit.count - 1
    ends = [slider(0, last, i, step=1, label=f"{w} image") for i, w in enumerate(("From", "To"))]
    start = gr.Button("Interpolate")
    picture = picture_box(elem_id="way", visible=False)

    @in_a_line
    def walk(*chosen: int) -> Any:
        drawn = way_picture(exhibit.model, exhibit.rows.rows([int(i) for i in chosen]))
        return gr.update(value=drawn, visible=True)

    # The picture is not there yet, so the sliders show that it is being made.
    start.click(walk, ends, picture, show_progress_on=ends, api_visibility="private")


def certificate(exhibit: Exhibit) -> None:
    """What is stated of the nets, and what is proven again."""
    folder = exhibit.model.folder
    stated = [] if folder is None else folder.config().certificate
    text = gr.Markdown(_said(stated, "Stated by the model's files."), elem_id="certificate")
    start = gr.Button("Prove it again", visible=bool(stated))
    with gr.Accordion("The bound of each net", open=False, visible=bool(stated)):
        bounds = gr.Markdown(_bounds(stated), elem_id="bounds")

    @in_a_line
    def prove(progress: Any = gr.Progress()) -> tuple[str, str]:  # noqa: B008
        found = []
        parts = exhibit.model.named_modules()
        blocks = [(path, part) for path, part in parts if isinstance(part, ResidualBlock)]
        for path, block in progress.tqdm(blocks, desc="proving", unit="blocks"):
            found += [replace(one, name=f"{path}.{one.name}") for one in certify(block)]
        return _said(found, "Proven now."), _bounds(found)

    start.click(prove, None, [text, bounds], api_visibility="private")


def _said(certificates: Sequence[Certificate], source: str) -> str:
    said = margin_in_words(certificates)
    # Files state nothing where there are no nets.
    return in_markdown(f"{said} {source}" if certificates else said)


def _bounds(certificates: Sequence[Certificate]) -> str:
    header = ("number", "at most", "norm", "nets")
    return table(header, bounds_of_nets(certificates))
