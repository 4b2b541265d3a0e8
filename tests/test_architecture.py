"""The page on the architecture names files that exist; the core keeps its rules."""

from __future__ import annotations

import re
from pathlib import Path

import limits
import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def test_the_files_of_the_page_exist():
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 20
    for name in named:
        assert list((ROOT / "impflow_zoo").glob(name.rstrip("/"))), name


def test_what_the_core_has_none_of():
    # The exception: evaluation keeps the pair of a Cayley layer while its matrix has the same
    # entries. Without that, evaluation took up to twice as long.
    assert limits.forbidden() == ["sandwich.py: state in modules"]


@pytest.mark.parametrize("name", limits.NOW)
def test_the_core_does_not_grow(name):
    assert limits.figures()[name] <= limits.NOW[name]
