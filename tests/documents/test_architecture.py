"""The page on the architecture names files that exist."""

from __future__ import annotations

import re

from support.checkout import CHECKOUT

PACKAGE = CHECKOUT / "impflow_zoo"
PAGE = CHECKOUT / "docs" / "architecture.md"


def test_the_files_of_the_page_exist():
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 20
    for name in named:
        assert (PACKAGE / name).exists() or (CHECKOUT / name).exists(), name
