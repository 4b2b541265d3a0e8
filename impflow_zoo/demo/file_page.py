"""The page that scores a file of a user."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import impflow_zoo.demo.tabs as tabs
from impflow_zoo.data import DataError, Source
from impflow_zoo.data.names import all_listed
from impflow_zoo.demo.choice import link, model_choice
from impflow_zoo.demo.exhibits import Exhibit, Hall
from impflow_zoo.demo.looks import rounded, table
from impflow_zoo.demo.uploads import COLUMN, Scored, score_file
from impflow_zoo.demo.words import in_a_line, line_of
from impflow_zoo.models.texts import in_markdown

with contextlib.suppress(ImportError):  # the command says what to install
    import gradio as gr

__all__ = ["FILE_PAGE", "add_file_page"]

FILE_PAGE = "your-file"  # its address
_TITLE = """# Score your own file
Each row gets its log-density under the model. The file is removed as soon as it is scored."""
_IMAGES = "This is a model of images, which no CSV file holds: choose a model of a table."
_AT_ONCE = 4  # files that are read or scored; others wait
_NAMED = 8  # columns; of more the names are left out


def add_file_page(pages: gr.Blocks, hall: Hall) -> None:
    """Add the page to those of a server."""
    with pages.route("Your file", FILE_PAGE, show_in_navbar=False):
        gr.Markdown(_TITLE)
        name = model_choice(hall, pages)

        @gr.render(name, [name.change])
        @in_a_line
        def below(chosen: str) -> None:
            link("Back to the picture", "./", chosen)
            exhibit = hall.open(chosen)
            if len(exhibit.model.config.shape) == 3:
                gr.Markdown(_IMAGES)
            else:
                _upload(exhibit, hall)


def _upload(exhibit: Exhibit, hall: Hall) -> None:
    """Score a file, show its rows, and give it back with a column more.

    Arguments:
        exhibit: the model.
        hall: the models of the server, with a folder for files and processes that read them.
    """
    names = exhibit.columns
    named = all_listed(names) if len(names) <= _NAMED else "of the model"
    label = f"CSV with the columns {named}"
    file = gr.File(file_types=[".csv"], label=label, interactive=True, elem_id="file", height=160)
    file.async_move_resource_to_block_cache = _uploaded
    text = gr.Markdown(elem_id="scored")
    out = gr.File(
        label=f"With the column {COLUMN}", interactive=False, visible=False, elem_id="out"
    )
    head = gr.Markdown(elem_id="rows")
    of_file = gr.State(None)
    number = tabs.slider(0, 1, 0, step=1, label="Row", visible=False)
    figures, values = gr.Markdown(elem_id="numbers-of-file"), gr.Markdown(elem_id="row-of-file")
    outputs = [text, out, head, of_file, number, values, figures]

    def told(line: str, scored: Scored | None = None) -> list[Any]:
        said = in_markdown(line)
        if scored is None:
            hidden = gr.update(visible=False)
            return [said, gr.update(value=None, visible=False), "", None, hidden, "", ""]
        rows, first = scored.rows, scored.head
        end = max(1, len(rows) - 1)
        number = gr.update(value=0, maximum=end, label=f"Row of {scored.name}", visible=True)
        *names, added = first.columns  # the new column is seen first, also on a phone
        lines = [(rounded(float(row[-1])), *row[:-1]) for row in first.to_numpy().tolist()]
        shown = f"Its first rows:\n\n{table([added, *names], lines)}"
        result = gr.update(value=str(scored.out), visible=True)
        return [said, result, shown, rows, number, "Move the slider to look at a row.", ""]

    @in_a_line
    def look(chosen: int, rows: Source | None) -> Any:
        return gr.skip() if rows is None else tabs.look_at(exhibit, rows, chosen)

    tabs.on_change([number], look, [values, figures], beside=[of_file])

    def score(path: str, progress: Any = gr.Progress(track_tqdm=True)) -> Iterator[list[Any]]:  # noqa: B008
        try:
            with tempfile.TemporaryDirectory(dir=hall.scratch) as folder:
                taken = _taken(path, folder)
                yield told(f"Scoring {taken.name} ...")
                scored = score_file(exhibit, taken, Path(folder), hall.workers)
                yield told(scored.text, scored)  # gradio copies what it gives back
        except Exception as error:
            yield told(f"Not scored: {line_of(error)}")

    limits = {"concurrency_limit": _AT_ONCE, "concurrency_id": "files"}
    file.upload(score, file, outputs, api_visibility="private", **limits)
    file.clear(lambda: told(""), None, outputs, api_visibility="private")


def _taken(path: str, folder: str) -> Path:
    """The path of an upload after it was moved to a folder: gradio keeps nothing of it."""
    try:
        return Path(shutil.move(path, folder))
    except FileNotFoundError:  # gradio has one path for equal files of several users
        raise DataError(f"{os.path.basename(path)} was just read: upload it again") from None


async def _uploaded(path: str | Path | None) -> str | None:
    """The path of a file that was uploaded; gradio itself would fetch one from any address."""
    if "://" in str(path):
        raise gr.Error("Upload a file: none is fetched.", print_exception=False)
    return None if path is None else str(path)
