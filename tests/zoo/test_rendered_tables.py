"""Cards, the tables of the guides and `results.csv` say what the folders say."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from support import staged_folder
from support.checkout import CHECKOUT

from impflow_zoo.zoo import tables


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    staged_folder.stage(tmp_path / "hub_configs" / "tiny")
    planned = tmp_path / "hub_configs" / "planned"
    planned.mkdir()
    recipe = (tmp_path / "hub_configs" / "tiny" / "recipe.yaml").read_text()
    (planned / "recipe.yaml").write_text(recipe)
    (tmp_path / "docs").mkdir()
    for name, table in (("models", "zoo"), ("impflow-beside-resflow", "pairs")):
        page = f"# Title\n\n<!-- {table} table -->\n<!-- end of {table} table -->\n\nAfter.\n"
        (tmp_path / "docs" / f"{name}.md").write_text(page)
    return tmp_path


def test_generated_files_are_up_to_date():
    """If this fails: `python -m impflow_zoo.zoo.tables`, and commit what it writes."""
    for path, text in tables.documents(CHECKOUT).items():
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
    page = checkout / "docs" / "models.md"
    text = tables.documents(checkout)[page]
    assert text.startswith("# Title\n\n<!-- zoo table -->\n| model |")
    assert text.endswith("\n<!-- end of zoo table -->\n\nAfter.\n")
    assert re.search(r"\| \[tiny\]\(../hub_configs/tiny\) \| ResFlow \| moons \| -\d+.\d+ ± ", text)
    assert "\n\nRecipes without weights yet: [planned](../hub_configs/planned).\n" in text
    page.write_text(text.replace("without weights yet", "to be proud of"))
    assert tables.documents(checkout)[page] == text


def test_cards_are_made_from_the_folders(checkout):
    card = checkout / "hub_configs" / "tiny" / "README.md"
    text = card.read_text()
    assert tables.documents(checkout)[card] == text
    card.write_text("edited by hand")
    assert tables.documents(checkout)[card] == text


def test_pairs_stand_side_by_side():
    text = tables.documents(CHECKOUT)[CHECKOUT / "docs" / "models.md"].partition(
        "<!-- zoo table -->"
    )[2]
    names = [line.split("]")[0].removeprefix("| [") for line in text.splitlines() if "| [" in line]
    at = names.index("impflow-rings")
    assert names[at + 1] == "resflow-rings"
