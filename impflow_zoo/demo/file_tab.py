"""The tab that scores a file of a user."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from impflow_zoo.data import DataError
from impflow_zoo.demo.exhibits import Exhibit, Hall
from impflow_zoo.demo.uploads import COLUMN, Scored, score_file
from impflow_zoo.demo.words import line_of
from impflow_zoo.models.texts import in_markdown

with contextlib.suppress(ImportError):  # the command says what to install
    import gradio as gr

__all__ = ["upload"]

_AT_ONCE = 4  # files that are read or scored; others wait


def upload(exhibit: Exhibit, hall: Hall, looked_at: tuple[Any, Any] | None) -> None:
    """Score a file, show its first rows, and give it back with a column more.

    Arguments:
        exhibit: the model.
        hall: the models of the server, with a folder for files and processes that read them.
        looked_at: the slider over rows and the set it goes over, if there are any.
    """
    label = "CSV with the columns of the model"
    file = gr.File(file_types=[".csv"], label=label, interactive=True, elem_id="file")
    file.async_move_resource_to_block_cache = _uploaded
    text = gr.Markdown(elem_id="scored")
    table = gr.Dataframe(interactive=False, visible=False, elem_id="rows")
    out = gr.File(
        label=f"With the column {COLUMN}", interactive=False, visible=False, elem_id="out"
    )
    outputs = [text, table, out, *(looked_at or ())]

    def told(line: str, scored: Scored | None = None) -> list[Any]:
        head, path = (scored.head, str(scored.out)) if scored else (None, None)
        found = [in_markdown(line)]
        found += [gr.update(value=value, visible=bool(scored)) for value in (head, path)]
        if looked_at is None:
            return found
        rows, name = exhibit.rows, exhibit.rows_in_words
        if scored:
            rows, name = scored.rows, scored.name
        number = gr.update(value=0, maximum=max(1, len(rows) - 1), label=f"Row of {name}")
        return [*found, number, scored and rows]

    def score(path: str, progress: Any = gr.Progress(track_tqdm=True)) -> Iterator[list[Any]]:  # noqa: B008
        try:
            with tempfile.TemporaryDirectory(dir=hall.scratch) as folder:
                scored = score_file(exhibit, _taken(path, folder), Path(folder), hall.workers)
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
