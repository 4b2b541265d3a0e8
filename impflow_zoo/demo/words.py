"""What the page says of errors: a line, without markup."""

from __future__ import annotations

import contextlib
import functools
import html
import logging
from collections.abc import Callable
from typing import Any

from impflow_zoo.models.mistakes import MISTAKES
from impflow_zoo.models.texts import printable

with contextlib.suppress(ImportError):  # the command says what to install
    import gradio as gr

__all__ = ["in_a_line", "line_of"]

_UNFORESEEN = "Something went wrong on the server; its log says what."
_log = logging.getLogger(__name__)


def in_a_line(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose errors are said on the page, in a line."""

    @functools.wraps(function)
    def told(*args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            said = html.escape(line_of(error))
            raise gr.Error(said, duration=None, print_exception=False) from None

    return told


def line_of(error: Exception) -> str:
    """What an error says to users, in a line; the log says more of an error that none foresaw."""
    if isinstance(error, MISTAKES) and getattr(error, "errno", None) is None:
        return printable(" ".join(str(error).split()))
    _log.error("an error on the page", exc_info=error)
    return _UNFORESEEN
