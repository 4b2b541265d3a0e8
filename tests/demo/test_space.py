"""The folder of the Space: its card, what it installs, and a start as on the Hub."""

from __future__ import annotations

import re
import shutil
import tomllib
import urllib.request

import pytest
import yaml
from packaging.requirements import Requirement
from support.checkout import CHECKOUT
from support.demo_page import served

SPACE = CHECKOUT / "space"
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


def card() -> dict[str, object]:
    _, front, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front)


def test_the_card_says_what_the_hub_asks_for():
    found = card()
    assert found["sdk"] == "gradio"
    assert (SPACE / str(found["app_file"])).is_file()
    assert len(str(found["short_description"])) <= 60  # the Hub refuses longer ones
    assert {found["colorFrom"], found["colorTo"]} <= {"green", "blue"}
    assert str(found["license"]).upper() == PROJECT["license"]
    assert f">={found['python_version']}" == PROJECT["requires-python"]


def test_it_installs_the_extra_of_this_package():
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    (asked,) = (Requirement(line) for line in lines if not line.startswith("--"))
    assert asked.name == PROJECT["name"]
    (gradio,) = (
        found
        for extra in asked.extras
        for found in map(Requirement, PROJECT["optional-dependencies"][extra])
        if found.name == "gradio"
    )
    assert str(card()["sdk_version"]) in gradio.specifier


def test_it_holds_nothing_else():
    assert {path.name for path in SPACE.iterdir() if path.name != "__pycache__"} == {
        "README.md",
        "app.py",
        "requirements.txt",
    }


def test_it_starts_as_on_the_hub(tmp_path):
    pytest.importorskip("gradio", reason="the demo needs the extra demo")
    pytest.importorskip("matplotlib", reason="the demo needs the extra demo")
    folder = shutil.copytree(SPACE, tmp_path / "space")
    with served(folder, "app.py", GRADIO_SERVER_NAME="0.0.0.0", SPACE_ID="me/space") as server:
        port = re.search(r":(\d+)", server.address)[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=60) as answer:
            page = answer.read().decode()
    assert "impflow_zoo" in page
