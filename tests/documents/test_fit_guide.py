"""The pages on `fit` name what it tries, and their code runs as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.checkout import CHECKOUT

from impflow_zoo.fitting import describe
from impflow_zoo.fitting.portfolio import FINE, PORTFOLIO, candidates
from impflow_zoo.fitting.reading import read_table

TEXT = (CHECKOUT / "docs" / "fit.md").read_text(encoding="utf-8")
CHOICE = (CHECKOUT / "docs" / "how-fit-chooses.md").read_text(encoding="utf-8")


def test_the_guide_names_every_candidate_in_order():
    rows = re.findall(r"^\| `([\w.-]+)` \| ([\d.]+), ([\d.]+) \| .+ \|$", CHOICE, re.MULTILINE)
    assert rows == [
        (one.name, f"{one.training['weight_decay']:g}", f"{one.training['learning_rate']:g}")
        for one in (PORTFOLIO[0], FINE, *PORTFOLIO[1:])
    ]


def test_the_guide_prints_what_is_found_in_the_made_up_table(tmp_path):
    path = tmp_path / "own.csv"
    script = CHECKOUT / "examples" / "made_up_table.py"
    subprocess.run([sys.executable, script, path], check=True)
    findings = describe(read_table(path).first)
    (printed,) = re.findall(r"```text\n(columns: .*?\n)round 1:", TEXT, re.DOTALL)
    assert printed.splitlines() == findings.lines()
    tried = re.findall(r"^round 1: ([\w-]+),", TEXT, re.MULTILINE)
    names = [one.name for one in candidates(findings)]
    assert tried == names[: len(tried)]
    left = ", ".join(names[len(tried) :])
    assert f"not tried {left}: give fit more minutes " in " ".join(TEXT.split())


def test_the_code_of_the_guide_runs(capsys: pytest.CaptureFixture[str]):
    code = "".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    code, fits = re.subn(r"minutes=[\d.]+", "minutes=0.004", code)
    assert fits == 2
    exec(compile(code, "the guide", "exec"), {})
    assert "implicit-sines" in capsys.readouterr().out


def test_categories_become_columns_as_the_page_of_options_says(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    text = (CHECKOUT / "docs" / "fit-options.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "fit-options.md", "exec"), {})
    (said,) = re.findall(r"^print.*# (\[.*\])$", code, re.MULTILINE)
    assert capsys.readouterr().out.strip() == said
    assert read_table(tmp_path / "sites.csv").first.names == ("size", "site_north")
