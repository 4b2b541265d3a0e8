"""The README's zoo table and `results.csv` say what the folders say."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
import staged

from impflow_zoo import tables

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    staged.stage(tmp_path / "hub_configs" / "tiny")
    planned = tmp_path / "hub_configs" / "planned"
    planned.mkdir()
    recipe = (tmp_path / "hub_configs" / "tiny" / "recipe.yaml").read_text()
    (planned / "recipe.yaml").write_text(recipe)
    (tmp_path / "README.md").write_text("# Title\n\nText.\n")
    return tmp_path


def test_generated_files_are_up_to_date():
    """If this fails: `python -m impflow_zoo.tables`, and commit what it writes."""
    for path, text in tables.documents(ROOT).items():
        assert path.is_file(), path
        assert path.read_text(encoding="utf-8") == text, path


def test_rows(checkout):
    planned, tiny = csv.DictReader(
        io.StringIO(tables.documents(checkout)[checkout / "results.csv"])
    )
    assert (tiny["model"], tiny["kind"], tiny["data"]) == ("tiny", "ResFlow", "moons")
    assert (tiny["n"], tiny["parameters"], tiny["minutes"]) == ("10000", "262", "0.1")
    assert float(tiny["value"]) < 0 < float(tiny["stderr"])
    assert float(tiny["margin"]) == pytest.approx(0.2, abs=1e-4)
    assert len(tiny["sha256"]) == 64
    assert (planned["value"], planned["sha256"], planned["parameters"]) == ("", "", "262")


def test_the_table_goes_between_its_markers(checkout):
    readme = checkout / "README.md"
    text = tables.documents(checkout)[readme]
    assert text.startswith("# Title\n\nText.\n\n## The zoo\n")
    assert re.search(r"\| \[tiny\]\(hub_configs/tiny\) \| ResFlow \| moons \| -\d+\.\d{3} ± ", text)
    assert "\n\nRecipes without weights yet: [planned](hub_configs/planned).\n" in text
    readme.write_text(text.replace("without weights yet", "to be proud of") + "\nAfter.\n")
    again = tables.documents(checkout)[readme]
    assert again == text + "\nAfter.\n"
    assert again.count("<!-- zoo table -->") == again.count("<!-- end of zoo table -->") == 1


def test_pairs_stand_side_by_side():
    text = tables.documents(ROOT)[ROOT / "README.md"].partition("<!-- zoo table -->")[2]
    names = [line.split("]")[0].removeprefix("| [") for line in text.splitlines() if "| [" in line]
    at = names.index("impflow-checkerboard")
    assert names[at + 1] == "resflow-checkerboard"
