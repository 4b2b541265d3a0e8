"""The page on the architecture names files that exist; the core keeps its rules."""

from __future__ import annotations

import re

import pytest
from support import core_figures
from support.checkout import CHECKOUT

PAGE = CHECKOUT / "docs" / "architecture.md"


def test_the_files_of_the_page_exist():
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 20
    for name in named:
        assert list((CHECKOUT / "impflow_zoo").glob(name.rstrip("/"))), name


def test_what_the_core_has_none_of():
    assert core_figures.forbidden() == []


@pytest.mark.parametrize("name", core_figures.NOW)
def test_the_core_does_not_grow(name):
    assert core_figures.figures()[name] <= core_figures.NOW[name]
