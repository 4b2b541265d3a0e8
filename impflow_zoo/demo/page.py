"""The page: below the choice of a model, what belongs to it is made anew for each user."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from PIL import Image

import impflow_zoo.demo.tabs as tabs
from impflow_zoo.demo.choice import link, model_choice
from impflow_zoo.demo.drawing import density_map, samples_picture
from impflow_zoo.demo.exhibits import Exhibit, Hall
from impflow_zoo.demo.file_page import FILE_PAGE, add_file_page
from impflow_zoo.demo.looks import on_step, rounded
from impflow_zoo.demo.words import in_a_line
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.texts import in_markdown
from impflow_zoo.zoo.record import Record

with contextlib.suppress(ImportError):  # the command says what to install
    import gradio as gr

__all__ = ["build", "first_picture"]

_TITLE = "# impflow_zoo\nImplicit and residual normalizing flows with a certified inverse."
_SEEN = 100_000  # held-out rows whose contexts the sliders reach


def first_picture(exhibit: Exhibit) -> Image.Image:
    """What is seen of a model before anybody asks."""
    if exhibit.in_plane:
        found = density_map(exhibit)
        return found.marked(found.middle)
    return samples_picture(exhibit, 0, 1.0, tuple(value for _, _, value, _ in _contexts(exhibit)))


def build(hall: Hall) -> gr.Blocks:
    """The pages of a server: a model's own, and that of a user's file."""
    with gr.Blocks(title="impflow_zoo", analytics_enabled=False, delete_cache=(60, 600)) as pages:
        gr.Markdown(_TITLE)
        name = model_choice(hall, pages)

        @gr.render(name, [name.change])
        @in_a_line
        def below(chosen: str) -> None:
            exhibit = hall.open(chosen)
            image = len(exhibit.model.config.shape) == 3
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    gr.Markdown(_about(exhibit), elem_id="about")
                if not image:
                    with gr.Column(scale=1, min_width=160):
                        link("Score your own file", FILE_PAGE, chosen)
            # Without a choice no tab is shown after a change of models.
            with gr.Tabs(selected="picture", elem_id=f"tabs-of-{chosen}"):
                with gr.Tab("Picture", id="picture"):
                    _picture(exhibit)
                if not exhibit.in_plane:
                    with gr.Tab("One row", id="one") as opened:
                        tabs.row(exhibit, opened)
                if image:
                    with gr.Tab("Two images", id="two"):
                        tabs.way(exhibit)
                with gr.Tab("Certificate", id="certificate"):
                    tabs.certificate(exhibit)

    add_file_page(pages, hall)
    return pages


def _picture(exhibit: Exhibit) -> None:
    """The picture of a model, beside what it depends on; a narrow page has that above it."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300, elem_classes="settings"):
            settings, of_samples = _settings(exhibit)
            with gr.Column(visible=exhibit.in_plane) as coordinates:
                point = tabs.point(exhibit) if exhibit.in_plane else []
        with gr.Column(scale=3, min_width=300):
            picture = tabs.picture_box(first_picture(exhibit), elem_id="picture")
            if exhibit.in_plane:
                numbers = tabs.numbers_of_point(exhibit, point)
                _show_one(settings[0], [coordinates, numbers], of_samples)
    _keep_drawing(exhibit, picture, settings, point)


def _show_one(view: Any, of_point: list[Any], of_samples: Any) -> None:
    """Show what tells of a point beside the map, and what samples depend on beside samples."""

    def shown(chosen: str) -> list[Any]:
        density = chosen == "density"
        return [*(gr.update(visible=density) for _ in of_point), gr.update(visible=not density)]

    outputs = [*of_point, of_samples]
    view.change(shown, view, outputs, show_progress="hidden", api_visibility="private")


def _settings(exhibit: Exhibit) -> tuple[list[Any], Any]:
    """What is drawn, seed and temperature, and one slider for each column of the context.

    Beside them is the part that holds seed and temperature, on which a density does not depend.
    """
    views = ["density", "samples"]
    view = gr.Radio(
        views,
        value=views[0],
        label="Picture of",
        visible=exhibit.in_plane,
        interactive=True,  # gradio takes some parts of a rendered page for mere pictures
    )
    angles = bool(exhibit.model.config.periodic)
    title = "Seed" if angles else "Seed and temperature"
    with gr.Accordion(title, open=False, visible=not exhibit.in_plane) as of_samples, gr.Row():
        seed = gr.Number(0, precision=0, minimum=0, maximum=2**53, label="Seed", interactive=True)
        temperature = tabs.slider(0, 2, 1, step=0.05, label="Temperature", visible=not angles)
    names = getattr(exhibit.model.config, "class_names", ())
    which = in_markdown(", ".join(f"{number}: {name}" for number, name in enumerate(names)))
    columns = zip(exhibit.context_columns, _contexts(exhibit), strict=True)
    with gr.Row() if exhibit.context_columns else contextlib.nullcontext():  # no empty frame
        contexts = [
            tabs.slider(low, high, value, step=step, label=column, info=which or None)
            for column, (low, high, value, step) in columns
        ]
    return [view, seed, temperature, *contexts], of_samples


def _contexts(exhibit: Exhibit) -> list[tuple[float, float, float, float]]:
    """Ends, middle and step of the slider of each column of the context.

    The slider reaches the extremes of the rows at hand, if a column has several values there, or
    else one standard deviation to both sides of the mean: no file of a model tells where its
    columns end, and further out there may be nothing, as below zero in a column of sizes.
    """
    model = exhibit.model
    if classes := model.config.classes:
        return [(0, classes - 1, 0, 1)]
    if not (size := model.config.context_features):
        return []
    noise = torch.tensor([[-1.0], [0.0], [1.0]]).expand(-1, size)
    like = model.parts[0].transform.like
    low, middle, high = like(noise.to(next(model.parameters()))).cpu().double()
    if len(model.config.shape) == 1 and (rows := exhibit.first_rows(_SEEN)) is not None:
        ends = rows[:, -size:].aminmax(dim=0)
        wide = ends.min < ends.max
        low, high = torch.where(wide, ends.min, low), torch.where(wide, ends.max, high)
        middle = middle.clamp(low, high)
    columns = zip(low.tolist(), high.tolist(), middle.tolist(), strict=True)
    return [tabs.slider_ends(*three) for three in columns]


def _keep_drawing(
    exhibit: Exhibit, picture: gr.Image, settings: list[Any], point: list[Any]
) -> None:
    """Draw again whenever a setting or the point changes; a click on the map moves the point."""

    @in_a_line
    def draw(view: str, seed: int | None, temperature: float, *rest: float) -> Image.Image:
        if not exhibit.in_plane:
            return samples_picture(exhibit, seed or 0, temperature, rest)
        if view == "density":
            return density_map(exhibit).marked((rest[0], rest[1]))
        return samples_picture(exhibit, seed or 0, temperature)

    tabs.on_change([*settings, *point], draw, picture)
    if exhibit.in_plane:

        @in_a_line
        def move(view: str, event: gr.SelectData) -> Any:
            at = density_map(exhibit).point(event.index) if view == "density" else None
            if at is None:
                return gr.skip()
            return [on_step(value, of.step) for value, of in zip(at, point, strict=True)]

        picture.select(move, settings[0], point, api_visibility="private")


def _about(exhibit: Exhibit) -> str:
    """Kind, size and score of a model, and whether held-out rows are at hand."""
    metric = METRICS[exhibit.model.config.metric]
    folder, size = exhibit.model.folder, sum(p.numel() for p in exhibit.model.parameters())
    text = f"{type(exhibit.model).__name__} with {size:,} parameters"
    if folder is not None and (entry := Record(folder).entry) is not None:
        score = rounded(entry.value, entry.stderr)
        text += f". Score: {score} {metric.unit} ({metric.direction}) on {entry.rows}"
    text += "." if exhibit.held_out else ". No held-out rows at hand: samples alone."
    return in_markdown(text + (f" ({exhibit.note})" if exhibit.note else ""))
