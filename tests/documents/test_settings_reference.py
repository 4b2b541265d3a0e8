"""The tables of settings in the docs name every setting there is, with its default."""

from __future__ import annotations

import dataclasses
import re
import sys

import pytest
import torch
import yaml
from support.checkout import CHECKOUT

from impflow_zoo import LogDet, Solver, cli
from impflow_zoo.models.data_settings import DataSettings
from impflow_zoo.models.image_config import ImageConfig, Preparation
from impflow_zoo.models.spline_config import SplineConfig
from impflow_zoo.models.table_config import TabularConfig
from impflow_zoo.models.yardsticks import MixtureConfig
from impflow_zoo.training.recipe import CardSettings, TrainingSettings

SETTINGS = (CHECKOUT / "docs" / "settings.md").read_text()
GUIDE = (CHECKOUT / "docs" / "your-own-data.md").read_text()
SECTIONS = {
    "`config` with `kind: tabular`": TabularConfig,
    "`config` with `kind: spline`": SplineConfig,
    "`config` with `kind: mixture`": MixtureConfig,
    "`config` with `kind: image`": ImageConfig,
    "`config.prepare`": Preparation,
    "`config.logdet`": LogDet,
    "`config.solver`": Solver,
    "`data`": DataSettings,
    "`training`": TrainingSettings,
    "`card`": CardSettings,
}


def default(field: dataclasses.Field) -> object:
    """The default of a field as YAML knows it; a text where the table has words."""
    if field.default is not dataclasses.MISSING:
        value = field.default
        return list(value) if isinstance(value, tuple) else value
    if field.default_factory is dataclasses.MISSING:
        return "needed"
    return {} if field.default_factory is dict else "see below"


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_table_has_every_setting_with_its_default(heading):
    section = SETTINGS.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", section, re.MULTILINE)
    found = {key: yaml.safe_load(text.strip("`")) for key, text in rows}
    fields = dataclasses.fields(SECTIONS[heading])
    assert found == {field.name: default(field) for field in fields}


def test_the_first_steps_run_as_they_are_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(r"```yaml\n(model: .*?)```", GUIDE, re.DOTALL)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "recipe.yaml").write_text(text.replace("steps: 1000", "steps: 4"))
    rows = torch.randn(600, 3).tolist()
    for name in ("own.csv", "held-out.csv"):
        (tmp_path / name).write_text("a,b,c\n" + "\n".join(",".join(map(str, r)) for r in rows))
    (commands,) = re.findall(r"```\n(impflow-zoo train own.*?)```", GUIDE, re.DOTALL)
    for command in commands.splitlines():
        monkeypatch.setattr(sys, "argv", command.split())
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == 1001
    for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        exec(compile(block, "the guide", "exec"), {})
    assert (tmp_path / "elsewhere" / "model.safetensors").is_file()
    assert "torch.Size([2, 5, 3])" in capsys.readouterr().out
