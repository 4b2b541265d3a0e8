"""The commands that the documents print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from support.checkout import CHECKOUT

__all__ = ["LABORATORY", "Commands", "cases", "documents", "published"]

LABORATORY = CHECKOUT / "benchmarks"  # whose commands its own tests run

Commands = tuple[str, ...]  # of one block, or a single one

_PROGRAMS = ("impflow-zoo", "python", "pip", "pytest", "accelerate", "torchrun", "hf", "export")
_FENCED = re.compile(r"^```([\w{}-]*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_SHELLS = ("", "bash", "sh", "console")
_FAMILIES = "impflow|resflow|monotone|mixed|spline|mixture|linear"


def documents() -> list[Path]:
    """Everything written for readers."""
    rooms = ("", "docs/", "benchmarks/", "benchmarks/notebook/", "conversion/", "hub_configs/*/")
    found = {path for room in rooms for path in CHECKOUT.glob(f"{room}*.md")}
    return sorted(found - {CHECKOUT / "CHANGELOG.md"})  # which tells of commands and prints none


def published(*, laboratory: bool) -> dict[Commands, Path]:
    """The commands of the benchmarks' documents, or of all others, by the blocks they stand in.

    Each has the first document that prints it. A command within a line of text, or in a table, is a
    block of its own. A mere name such as `impflow-zoo train` is none.
    """
    found: dict[Commands, Path] = {}
    for document in documents():
        if laboratory == (LABORATORY in document.parents):
            for block in _blocks(document.read_text(encoding="utf-8")):
                found.setdefault(block, document)
    return found


def cases(
    printed: dict[Commands, Path], elsewhere: Iterable[str], long: Iterable[str]
) -> Iterator[object]:
    """What a test of commands runs: a block, and its document.

    The fast tests run one card's commands of each kind.

    Arguments:
        printed: the commands, by blocks.
        elsewhere: patterns of commands that do not run here.
        long: patterns of commands for the slow tests.
    """
    seen = set()
    for commands, document in printed.items():
        runs = tuple(c for c in commands if not any(re.fullmatch(e, c) for e in elsewhere))
        if runs and not any({*runs} < {*others} for others in printed):
            slow = any(re.fullmatch(pattern, c) for pattern in long for c in runs)
            marks = [pytest.mark.slow] if slow or _kind(runs) in seen else []
            yield pytest.param(runs, document, id=runs[-1][:100], marks=marks)
            if not slow:
                seen.add(_kind(runs))


def _kind(commands: Commands) -> Commands:
    """The commands with the family of a model in the place of its name: many cards print them."""
    return tuple(re.sub(rf"\b({_FAMILIES})(-\w+)+( --given \S+)?", r"\1", c) for c in commands)


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
