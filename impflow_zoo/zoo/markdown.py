"""Markdown tables, and places for generated text in a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["between", "markdown"]


def markdown(header: str, rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are text already, under a header such as `"d | solver"`."""
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def between(text: str, name: str, content: str) -> str:
    """Replace what stands between two markers of a text.

    Raises:
        ValueError: if the text does not have both.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"there is no place for the {name}: mark it by {begin} and {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"
