"""The commands that the documents print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from support.checkout import CHECKOUT

__all__ = ["Commands", "documents", "published"]

Commands = tuple[str, ...]  # of one block, or a single one

_PROGRAMS = ("impflow-zoo", "python", "pip", "pytest", "accelerate", "torchrun", "hf", "export")
_FENCED = re.compile(r"^```([\w{}-]*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_SHELLS = ("", "bash", "sh", "console")


def documents() -> list[Path]:
    """Everything written for readers."""
    rooms = ("", "docs/", "benchmarks/", "benchmarks/notebook/", "conversion/", "hub_configs/*/")
    found = {path for room in rooms for path in CHECKOUT.glob(f"{room}*.md")}
    return sorted(found - {CHECKOUT / "CHANGELOG.md"})  # which tells of commands and prints none


def published() -> dict[Commands, Path]:
    """All commands, by the blocks they stand in, each with the first document that has it.

    A command within a line of text, or in a table, is a block of its own. A mere name such as
    `impflow-zoo train` is none.
    """
    found: dict[Commands, Path] = {}
    for document in documents():
        for block in _blocks(document.read_text(encoding="utf-8")):
            found.setdefault(block, document)
    return found


def _blocks(text: str) -> Iterator[Commands]:
    for language, block in _FENCED.findall(text):
        if language in _SHELLS:
            lines = re.sub(r"\\\n|\n(?=[ ]+\[)", " ", block).splitlines()
            commands = [c.strip() for line in lines for c in line.split("#")[0].split("&&")]
            yield tuple(filter(None, commands))
    for inline in _INLINE.findall(_FENCED.sub("", text)):
        words = inline.split()
        named = len(words) == 1 or (len(words) == 2 and re.fullmatch(r"[a-z-]+", words[1]))
        if words[0] in _PROGRAMS and not (named and words[0] != "pytest"):
            yield (inline,)
