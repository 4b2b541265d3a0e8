"""Python that cards print."""

from __future__ import annotations

import re


def run_snippet(card: str) -> None:
    """Run the Python of a card as printed."""
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(code, "card", "exec"), {})
