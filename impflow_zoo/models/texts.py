"""Text of strangers is shown as it is: a terminal obeys nothing in it, Markdown sets nothing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["in_line", "in_markdown", "printable", "printable_output"]

# Controls but tab and newline, marks that turn the direction of text, and halves of characters,
# which no encoding has.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_MARKUP = re.compile(r"[\\`*_{}\[\]()<>#+\-!|~$&:@^=]")
_LINE_UP = "\x1b[A"  # tqdm writes it alone, to reach the bar above


def printable(text: str) -> str:
    r"""The text with each control character in Python's notation.

    Example:
        >>> print(printable("\x1b[31mred\x1b[0m"))
        \x1b[31mred\x1b[0m
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_line(text: str) -> str:
    r"""The text in one line, as code and commands on a card need it.

    Example:
        >>> print(in_line("speed\rimport os\x1b"))
        speed import os\x1b
    """
    return printable(" ".join(text.split()))


def in_markdown(text: str) -> str:
    r"""Markdown, in one line, that shows a text as it is.

    Example:
        >>> print(in_markdown("<b> | *x*"))
        \<b\> \| \*x\*
    """
    return _MARKUP.sub(r"\\\g<0>", in_line(text))


class _Printable:
    """A text stream that writes printable text to another one.

    What the encoding of that one lacks takes Python's notation, too.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if not text.replace(_LINE_UP, ""):
            return self._stream.write(text)
        start = text[: text.startswith("\r")]  # with which a bar is drawn again
        shown = (start + printable(text[len(start) :])).encode(self._encoding, "backslashreplace")
        return self._stream.write(shown.decode(self._encoding))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printable_output() -> Iterator[None]:
    """Within the block, Python writes to stdout and stderr what is printable; bars still move."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # in place of what is closed
        out: Any = _Printable(sys.stdout or nowhere)
        err: Any = _Printable(sys.stderr or nowhere)
        with redirect_stdout(out), redirect_stderr(err):
            yield
