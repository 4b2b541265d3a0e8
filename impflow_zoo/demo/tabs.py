"""The tabs below the picture, each made by one function."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from impflow_zoo.data import Source
from impflow_zoo.demo.drawing import density_map, images_picture, way_picture
from impflow_zoo.demo.exhibits import Exhibit, Rows
from impflow_zoo.demo.numbers import margin_in_words, numbers_of
from impflow_zoo.demo.uploads import COLUMN, Scored, score_file
from impflow_zoo.lipschitz.certify import certify
from impflow_zoo.mistakes import MISTAKES

with contextlib.suppress(ImportError):  # the command says what to install
    import gradio as gr

__all__ = [
    "certificate",
    "in_a_line",
    "on_change",
    "picture_box",
    "point",
    "row",
    "slider",
    "slider_ends",
    "upload",
    "way",
]


def in_a_line(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose refusals are said on the page, in a line."""

    @functools.wraps(function)
    def told(*args: Any) -> Any:
        try:
            return function(*args)
        except MISTAKES as error:
            raise gr.Error(in_one_line(error), duration=None, print_exception=False) from None

    return told


def in_one_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return " ".join(str(error).split())


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


def upload(exhibit: Exhibit, scratch: Path, looked_at: tuple[Any, Any] | None) -> None:
    """Score a file, show its first rows, and give it back with a column more.

    Arguments:
        exhibit: the model.
        scratch: folder for results.
        looked_at: the slider over rows and the set it goes over, if there are any.
    """
    label = "CSV with the columns of the model"
    file = gr.File(file_types=[".csv"], label=label, interactive=True, elem_id="file")
    text = gr.Markdown(elem_id="scored")
    table = gr.Dataframe(interactive=False, visible=False)
    out = gr.File(
        label=f"With the column {COLUMN}", interactive=False, visible=False, elem_id="out"
    )
    outputs = [text, table, out, *(looked_at or ())]

    def told(line: str, scored: Scored | None = None) -> list[Any]:
        head, path = (scored.head, str(scored.out)) if scored else (None, None)
        found = [line, *(gr.update(value=value, visible=bool(scored)) for value in (head, path))]
        if looked_at is None:
            return found
        rows, name = exhibit.rows, exhibit.rows_in_words
        if scored:
            rows, name = scored.rows, scored.name
        number = gr.update(value=0, maximum=max(1, len(rows) - 1), label=f"Row of {name}")
        return [*found, number, scored and rows]

    def score(path: str, progress: Any = gr.Progress(track_tqdm=True)) -> list[Any]:  # noqa: B008
        try:
            scored = score_file(exhibit, Path(path), scratch)
        except MISTAKES as error:
            return told(f"Not scored: {in_one_line(error)}")
        return told(scored.text, scored)

    file.upload(score, file, outputs, api_visibility="private")
    file.clear(lambda: told(""), None, outputs, api_visibility="private")
