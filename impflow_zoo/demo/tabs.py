"""The tabs below the picture, each made by one function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from impflow_zoo.data import Source
from impflow_zoo.demo.drawing import density_map, images_picture, way_picture
from impflow_zoo.demo.exhibits import Exhibit, Rows
from impflow_zoo.demo.numbers import margin_in_words, numbers_of
from impflow_zoo.demo.words import in_a_line
from impflow_zoo.lipschitz.certify import certify

with contextlib.suppress(ImportError):  # the command says what to install
    import gradio as gr

__all__ = [
    "certificate",
    "on_change",
    "picture_box",
    "point",
    "row",
    "slider",
    "slider_ends",
    "way",
]


def on_change(inputs: Sequence[Any], function: Callable[..., Any], outputs: Any) -> None:
    """Call a function whenever one of its inputs changes; while it works, only the last counts."""
    gr.on(
        [component.change for component in inputs],
        function,
        list(inputs),
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
    """A slider that moves."""
    return gr.Slider(*ends, interactive=True, **looks)


def slider_ends(low: float, high: float, middle: float) -> tuple[float, float, float, float]:
    """Ends, value and step of a slider, in numbers of few digits."""
    step = float(f"{(high - low) / 400:.1g}")
    low, high, middle = (float(f"{round(v / step) * step:.12g}") for v in (low, high, middle))
    return low, high, middle, step


def point(exhibit: Exhibit) -> list[Any]:
    """Two coordinates and the numbers there."""
    found = density_map(exhibit)
    ends = map(slider_ends, found.low, found.high, found.middle)
    sliders = [
        slider(low, high, value, step=step, label=name)
        for name, (low, high, value, step) in zip(exhibit.columns, ends, strict=True)
    ]

    @in_a_line
    def numbers(*values: float) -> str:
        at = torch.tensor([values], dtype=torch.float64)
        return str(numbers_of(exhibit.model, Rows("the point", at)))

    on_change(sliders, numbers, gr.Markdown(numbers(*found.middle), elem_id="numbers"))
    return sliders


def row(exhibit: Exhibit) -> tuple[Any, Any]:
    """A row of the held-out data, of samples or of a user's file, and its numbers."""
    rows, image = exhibit.rows, len(exhibit.model.config.shape) == 3
    of_file = gr.State(None)
    number = slider(0, max(1, len(rows) - 1), 0, step=1, label=f"Row of {exhibit.rows_in_words}")

    @in_a_line
    def numbers(chosen: int, uploaded: Source | None) -> tuple[Any, str]:
        looked_at = uploaded or rows
        index = min(int(chosen), len(looked_at) - 1)  # a slider over a single row has two ends
        values = looked_at.rows([index])
        source = Rows(looked_at.name, values, index)
        if image:
            shown: Any = images_picture([exhibit.model.parted(values)[0]])
        else:
            shown = [[f"{value:.6g}" for value in values[0].tolist()]]
        return shown, str(numbers_of(exhibit.model, source))

    first, text = (None, "Move the slider to see the numbers.") if image else numbers(0, None)
    shown: Any
    if image:
        shown = picture_box(first, height=200)
    else:
        shown = gr.Dataframe(first, headers=exhibit.columns, interactive=False)
    outputs = [shown, gr.Markdown(text, elem_id="numbers")]
    on_change([number, of_file], numbers, outputs)
    return number, of_file


def way(exhibit: Exhibit) -> None:
    """The way from one image to another."""
    last = len(exhibit.rows) - 1
    ends = [slider(0, last, i, step=1, label=f"{w} image") for i, w in enumerate(("From", "To"))]
    start = gr.Button("Interpolate")
    picture = picture_box(elem_id="way")

    @in_a_line
    def walk(*chosen: int) -> Any:
        return way_picture(exhibit.model, exhibit.rows.rows([int(i) for i in chosen]))

    start.click(walk, ends, picture, api_visibility="private")


def certificate(exhibit: Exhibit) -> None:
    """What is stated of the nets, and what is proven again."""
    folder = exhibit.model.folder
    stated = [] if folder is None else folder.config().certificate
    gr.Markdown(f"Stated by the model's files: {margin_in_words(stated)}.")
    start = gr.Button("Prove it again")
    text = gr.Markdown(elem_id="certificate")

    @in_a_line
    def prove(progress: Any = gr.Progress()) -> str:  # noqa: B008
        found = []
        for some in progress.tqdm(list(exhibit.model.blocks()), desc="proving", unit="blocks"):
            found += certify(some)
        lines = "\n".join(f"- {one}" for one in found)
        return f"Proven now: {margin_in_words(found)}.\n\n{lines}"

    start.click(prove, None, text, api_visibility="private")
