"""Which of many cases the fast tests take; `pytest -m slow` takes all others.

A law has many settings (directions, types, modes) and holds for many blocks. The fast tests check
a law with a block in about one setting: settings are dealt out to the blocks in turn, as cards are.
So a law meets all its settings, each with some of the blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Generator, Iterable, Mapping
from typing import Any

import pytest

__all__ = ["crossed", "first_of_each"]


def crossed(
    one: Mapping[str, Any], other: Mapping[str, Any], seldom: Container[str] = ()
) -> list[Any]:
    """All pairs of values; the fast tests take each of the first once, with the second in turn.

    They leave out the first ones that are to be tested seldom.
    """

    def fast(i: int, x: str, j: int) -> bool:
        return i % len(other) == j and x not in seldom

    return [
        pytest.param(a, b, id=f"{x}-{y}", marks=() if fast(i, x, j) else pytest.mark.slow)
        for i, (x, a) in enumerate(one.items())
        for j, (y, b) in enumerate(other.items())
    ]


def first_of_each(kind: Callable[[Any], object], values: Iterable[Any]) -> list[Any]:
    """All values; the fast tests take the first one of each kind."""
    first: dict[object, Any] = {}
    return [
        pytest.param(
            value, marks=() if first.setdefault(kind(value), value) == value else pytest.mark.slow
        )
        for value in values
    ]


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Mark the cases of a law as slow that were dealt to other blocks."""
    collected = yield
    cases: dict[int, list[pytest.Function]] = defaultdict(list)
    for item in collected if isinstance(collected, list) else ():
        law = "block_case" in getattr(item, "fixturenames", ())
        if law and not item.get_closest_marker("slow"):
            params = item.callspec.params if hasattr(item, "callspec") else {}
            cases[id(params.get("block_case"))].append(item)
    for block, settings in enumerate(cases.values()):
        # Odd: settings have two or four values, of which a hand would else hold always the same.
        # Not more hands than blocks, or some settings would be dealt to none.
        hands = min(len(settings) | 1, max(3, (len(cases) - 1) | 1))
        for number, case in enumerate(settings):
            if number % hands != block % hands:
                case.add_marker(pytest.mark.slow)
    return collected
