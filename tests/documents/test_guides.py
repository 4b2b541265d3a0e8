"""The guides run as they are printed, and their densities beat a constant one."""

from __future__ import annotations

import importlib
import re

import pytest
import torch

pytest.importorskip("matplotlib")
guides = importlib.import_module("guides")
OF_LIBRARIES = [guide for guide in guides.GUIDES if guide != "tutorial"]


def shortened(guide, steps, fewer):
    """A guide's programs with fewer steps, in place of `guides.code_of`."""
    programs = guides.code_of(guide)
    assert sum(f"range({steps})" in code for code in programs) == 1
    return lambda _: [code.replace(f"range({steps})", f"range({fewer})") for code in programs]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torch's
@pytest.mark.parametrize("guide", OF_LIBRARIES)
def test_a_guide_runs_as_it_is_printed(guide, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(guides, "code_of", shortened(guide, 120, 40))
    if guide == "using-zuko":
        pytest.importorskip("zuko")
    guides.run(guide, tmp_path)
    assert (tmp_path / f"{guide}.png").read_bytes().startswith(b"\x89PNG")
    (nats,) = re.fullmatch(r"held out: (-?\d+\.\d+) nats\n", capsys.readouterr().out).groups()
    without_temperature = -0.5 * (1 + torch.tensor(2 * torch.pi).log())
    assert float(nats) > float(without_temperature) + 1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torch's
def test_the_tutorial_runs_and_learns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(guides, "code_of", shortened("tutorial", 300, 3))
    guides.run("tutorial", tmp_path)
    line, score, least = capsys.readouterr().out.splitlines()
    flow, truth = map(float, re.fullmatch(r"flow: (\S+) nats, truth: (\S+)", line).groups())
    gaussian = -1.88  # the best one
    assert gaussian + 0.2 < flow <= truth + 0.02
    assert re.fullmatch(r"-1[3-5]\.\d\d \+- 0\.\d\d nats on 946 hours", score)
    assert least.startswith("least likely: AT ")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torch's
@pytest.mark.parametrize("guide", guides.GUIDES)
def test_a_guide_prints_what_it_says(guide, tmp_path, capsys):
    if guide == "using-zuko":
        pytest.importorskip("zuko")
    guides.run(guide, tmp_path)
    numbers = r"-?\d+\.\d+"
    found = capsys.readouterr().out
    text = (guides.DOCS / f"{guide}.md").read_text()
    printed = "".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL))
    assert re.sub(numbers, "0", found) == re.sub(numbers, "0", printed)
    expected = [float(number) for number in re.findall(numbers, printed)]
    values = [float(number) for number in re.findall(numbers, found)]
    assert values == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("guide", guides.GUIDES)
def test_a_guide_shows_the_pictures_it_makes(guide):
    programs = guides.code_of(guide)
    assert all(len(code.splitlines()) < 50 for code in programs)
    names = re.findall(r'savefig\("(\w+)\.png"\)', "".join(programs))
    made = [f"pictures/{guide}{'' if n == 'density' else f'-{n}'}.png" for n in names]
    text = (guides.DOCS / f"{guide}.md").read_text()
    assert re.findall(r"!\[.*?\]\((.*?)\)", text) == made
    assert all((guides.DOCS / picture).is_file() for picture in made)


def test_the_layer_of_a_classifier_trains():
    (code,) = guides.code_of("classification")
    names = {}
    exec(compile(code, "classification.md", "exec"), names)
    layer = names["Layer"](2, (4, 4))
    layer(torch.randn(3, 2, 4, 4)).square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
