"""The guide of `fit` names what it tries, and its code runs as it is printed."""

from __future__ import annotations

import re

import pytest
from support.checkout import CHECKOUT

from impflow_zoo.fitting.portfolio import PORTFOLIO

TEXT = (CHECKOUT / "docs" / "fit.md").read_text(encoding="utf-8")


def test_the_guide_names_every_candidate_in_order():
    rows = re.findall(r"^\| `([\w.-]+)` \| .+ \| ([\d.]+), ([\d.]+) \|$", TEXT, re.MULTILINE)
    assert rows == [
        (one.name, f"{one.training['weight_decay']:g}", f"{one.training['learning_rate']:g}")
        for one in PORTFOLIO
    ]


def test_the_code_of_the_guide_runs(capsys: pytest.CaptureFixture[str]):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "the guide", "exec"), {})
    assert "implicit-sines" in capsys.readouterr().out
