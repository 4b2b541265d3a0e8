"""Cards, the tables of the guides and `results.csv` say what the folders say."""

from __future__ import annotations

import csv
import io
import re
import shutil
from pathlib import Path

import pytest
import tables
import yaml
from support import staged_folder
from support.checkout import CHECKOUT

from impflow_zoo.models import registry
from impflow_zoo.zoo.install import requirement
from impflow_zoo.zoo.record import records


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "zoo_folder", lambda: tmp_path / "hub_configs")
    staged_folder.stage(tmp_path / "hub_configs" / "tiny")
    planned = tmp_path / "hub_configs" / "planned"
    planned.mkdir()
    recipe = (tmp_path / "hub_configs" / "tiny" / "recipe.yaml").read_text()
    (planned / "recipe.yaml").write_text(recipe)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Title\n")
    figure = {"name": "a Gaussian", "value": "-3.1", "stderr": "0.1", "source": "a paper"}
    (tmp_path / "docs" / "figures.yaml").write_text(yaml.safe_dump({"moons": [figure]}))
    for name, table in (("models", "zoo"), ("impflow-beside-resflow", "pairs")):
        page = f"# Title\n\n<!-- {table} table -->\n<!-- end of {table} table -->\n\nAfter.\n"
        (tmp_path / "docs" / f"{name}.md").write_text(page)
    return tmp_path


def test_generated_files_are_up_to_date():
    """If this fails: `python docs/tables.py`, and commit what it writes."""
    for path, text in tables.documents(CHECKOUT).items():
        assert path.is_file(), path
        assert path.read_text(encoding="utf-8") == text, path


def test_rows(checkout):
    planned, tiny = csv.DictReader(
        io.StringIO(tables.documents(checkout)[checkout / "results.csv"])
    )
    assert (tiny["model"], tiny["kind"], tiny["data"]) == ("tiny", "ResFlow", "moons")
    assert (tiny["n"], tiny["parameters"], tiny["minutes"]) == ("10000", "130", "0.1")
    assert float(tiny["value"]) < 0 < float(tiny["stderr"])
    assert float(tiny["margin"]) == pytest.approx(0.2, abs=1e-4)
    assert len(tiny["sha256"]) == 64
    assert (planned["value"], planned["sha256"], planned["parameters"]) == ("", "", "")


def test_the_tables_go_between_their_markers(checkout):
    page = checkout / "docs" / "models.md"
    text = tables.documents(checkout)[page]
    assert text.startswith("# Title\n\n<!-- zoo table -->\n## Moons\n\n| model | nats | notes |")
    assert text.endswith("\n<!-- end of zoo table -->\n\nAfter.\n")
    assert re.search(r"\| \[tiny\]\(../hub_configs/tiny\) \| -\d+.\d+ ± ", text)
    assert "| a Gaussian | -3.1 ± 0.1 | a paper |" in text
    assert "\n\nRecipes without weights: [planned](../hub_configs/planned/recipe.yaml).\n" in text
    page.write_text(text.replace("without weights", "to be proud of"))
    assert tables.documents(checkout)[page] == text


def test_the_table_of_all_models_puts_those_of_one_data_set_together(checkout):
    zoo = checkout / "hub_configs"
    staged_folder.stage(zoo / "other", seed=1)
    ranked = sorted((r for r in records(zoo) if r.entry), key=lambda r: -r.entry.value)
    rows = tables.models_table(records(zoo)).splitlines()[2:]
    assert [row.split("](")[0] for row in rows] == [f"| [{record.name}" for record in ranked]


def test_cards_are_made_from_the_folders(checkout):
    card = checkout / "hub_configs" / "tiny" / "README.md"
    text = card.read_text()
    assert tables.documents(checkout)[card] == text
    card.write_text("edited by hand")
    assert tables.documents(checkout)[card] == text


def test_the_demo_on_the_hub_installs_what_there_is(checkout):
    path = checkout / "space" / "requirements.txt"
    path.parent.mkdir()
    path.write_text("--extra-index-url https://example.org/cpu\nimpflow_zoo[demo]==0.1\n")
    before, required = tables.documents(checkout)[path].splitlines()
    assert before == "--extra-index-url https://example.org/cpu"
    assert required == requirement("demo")


def test_training_one_model_again_changes_its_folder_its_line_and_generated_pages(checkout):
    zoo = checkout / "hub_configs"
    staged_folder.stage(zoo / "other")
    write(checkout)
    before = contents(checkout)
    shutil.rmtree(zoo / "tiny")
    staged_folder.stage(zoo / "tiny", seed=1)
    write(checkout)
    after = contents(checkout)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    elsewhere = {path for path in changed if not path.startswith("hub_configs/tiny/")}
    assert elsewhere == {"results.csv", "docs/models.md"}
    lines = zip(*(tree["results.csv"].splitlines() for tree in (before, after)), strict=True)
    assert [a.split(b",")[0] for a, b in lines if a != b] == [b"tiny"]


def write(checkout: Path) -> None:
    for path, text in tables.documents(checkout).items():
        path.write_text(text, encoding="utf-8")


def contents(checkout: Path) -> dict[str, bytes]:
    files = (path for path in checkout.rglob("*") if path.is_file())
    return {path.relative_to(checkout).as_posix(): path.read_bytes() for path in files}


def test_the_script_writes_all_files_and_the_picture(checkout, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    for name in ("impflow-tiny", "resflow-tiny"):
        staged_folder.stage(checkout / "hub_configs" / name)
    (checkout / "docs" / "pictures").mkdir()
    monkeypatch.setattr(tables, "ROOT", checkout)
    tables.main()
    written = [checkout / line for line in capsys.readouterr().out.splitlines()]
    assert written == [*tables.documents(checkout), checkout / tables.PICTURE]
    assert all(tables.documents(checkout)[path] == path.read_text() for path in written[:-1])
    assert written[-1].read_bytes().startswith(b"\x89PNG")


def test_a_card_speaks_of_its_own_model_alone():
    """Names of models begin with their family; a card has no name but its own."""
    names = {path.name for path in (CHECKOUT / "hub_configs").iterdir()}
    for card in (CHECKOUT / "hub_configs").glob("*/README.md"):
        words = set(re.findall(r"[\w-]+", card.read_text(encoding="utf-8")))
        assert words & names == {card.parent.name}
