"""Which model a page shows: its address may name one, and links to other pages do."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import quote

from impflow_zoo.demo.exhibits import Hall

with contextlib.suppress(ImportError):  # the command says what to install
    import gradio as gr

__all__ = ["link", "model_choice"]


def model_choice(hall: Hall, pages: gr.Blocks) -> gr.Dropdown:
    """The choice of a model on a page; it begins with the one that the address names.

    Arguments:
        hall: the models of the server.
        pages: those of the server, within the page that gets the choice.
    """
    name = gr.Dropdown(hall.names, value=None, label="Model", elem_id="model")

    def named(request: gr.Request) -> str:
        asked = str(request.query_params.get("model"))
        return asked if asked in hall.names else hall.first

    # An empty choice becomes a model once: what hangs on its change is made once.
    pages.load(named, None, name, show_progress="hidden", api_visibility="private")
    return name


def link(text: str, page: str, model: str) -> Any:
    """A link to another page, with the same model.

    Arguments:
        text: of the link.
        page: address beside that of this page.
        model: its name.
    """
    address = f"{page}?model={quote(model, safe='')}"  # links in Markdown open a new tab
    return gr.HTML(f'<a href="{address}">{text}</a>', elem_classes="to-page")
