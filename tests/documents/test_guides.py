"""The guides run as they are printed, and their densities beat a constant one."""

from __future__ import annotations

import importlib
import re

import pytest
import torch

pytest.importorskip("matplotlib")
guides = importlib.import_module("guides")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torch's
@pytest.mark.parametrize("guide", guides.GUIDES)
def test_a_guide_runs_as_it_is_printed(guide, tmp_path, capsys):
    if guide == "using-zuko":
        pytest.importorskip("zuko")
    picture = tmp_path / "picture.png"
    guides.run(guide, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    (nats,) = re.fullmatch(r"held out: (-?\d+\.\d+) nats\n", capsys.readouterr().out).groups()
    without_temperature = -0.5 * (1 + torch.tensor(2 * torch.pi).log())
    assert float(nats) > float(without_temperature) + 1


@pytest.mark.parametrize("guide", guides.GUIDES)
def test_a_guide_is_short_and_shows_its_picture(guide):
    assert len(guides.code_of(guide).splitlines()) < 40
    text = (guides.DOCS / f"{guide}.md").read_text()
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert pictures == [f"pictures/{guide}.png"]
    assert (guides.DOCS / pictures[0]).is_file()
