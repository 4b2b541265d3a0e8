"""The command lines, called in this process: how they ended, and what they printed."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import pytest

__all__ = ["Outcome", "Run", "call", "command", "conversion"]


@dataclass(frozen=True)
class Outcome:
    """How a call of a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The one object that stdout consists of, free of NaN."""
        assert self.code == 0, self.err
        return json.loads(self.out, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))


Run = Callable[..., Outcome]


def call(main: Callable[[], None], *words: object) -> Outcome:
    """Call a command line with the name of a program and its arguments."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", list(map(str, words))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def command(*arguments: object) -> Outcome:
    """Call `impflow-zoo`, which is imported when it is called."""
    from impflow_zoo.cli import main

    return call(main, "impflow-zoo", *arguments)


def conversion(*arguments: object) -> Outcome:
    """Call `python -m conversion`."""
    from conversion.__main__ import main

    return call(main, "conversion", *arguments)
