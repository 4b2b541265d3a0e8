"""The README keeps its promises: one command to run, one to test, and code that runs as printed."""

from __future__ import annotations

import re

import pytest
import tables
from support.checkout import CHECKOUT

from impflow_zoo.zoo.record import records

README = CHECKOUT / "README.md"


def section(title: str) -> str:
    return README.read_text().split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def fenced(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_one_command_installs_and_runs_a_checkout() -> None:
    installed, after = section("Run").split("<!-- end of install -->")
    (line,) = fenced(installed, "bash")
    (command,) = fenced(after)
    assert line.startswith("pip install ")
    assert command.startswith('pip install ".[plot]" && impflow-zoo evaluate ')
    assert command.count("\n") == line.count("\n") == 1


def test_one_command_to_test_with_its_set_up() -> None:
    (command,) = fenced(section("Test"))
    assert command.count("\n") == 1
    assert command.startswith("pip install ")
    assert "pytest" in command


def test_the_front_page_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 90


@pytest.mark.parametrize("title", ["In ten lines", "Inside nflows"])
def test_code_runs_as_printed(title: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = fenced(section(title), "python")
    exec(compile(code, title, "exec"), {})
    if title == "In ten lines":
        assert "+- 0.07" in capsys.readouterr().out


def test_the_home_page_prints_what_its_code_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (CHECKOUT / "docs" / "index.md").read_text()
    (code,) = fenced(page, "python")
    exec(compile(code, "index.md", "exec"), {})
    printed = capsys.readouterr().out.strip()
    assert tables.first_score(records(CHECKOUT / "hub_configs")) == f"```text\n{printed}\n```"
