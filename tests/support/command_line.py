"""The command line, called in this process: how it ended, and what it printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Outcome:
    """How a call of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The one object that stdout consists of, free of NaN."""
        assert self.code == 0, self.err
        return json.loads(self.out, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))


Run = Callable[..., Outcome]
