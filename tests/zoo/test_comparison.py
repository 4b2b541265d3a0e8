"""What compares the models of a checkout: `stage` writes it, and it says what the folders say."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest
from support import staged_folder
from support.checkout import CHECKOUT

from impflow_zoo.zoo.comparison import comparison, families_table, of_families, score
from impflow_zoo.zoo.record import Record, records


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with two models and a recipe without weights."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "results.csv").touch()
    (root / "README.md").write_text(
        "# Title\n\n<!-- families table -->\n<!-- end of families table -->\n\nAfter.\n"
    )
    zoo = root / "hub_configs"
    staged_folder.stage(zoo / "tiny")
    (zoo / "planned").mkdir()
    shutil.copy(zoo / "tiny" / "recipe.yaml", zoo / "planned")
    staged_folder.stage(zoo / "any-name", data_name="kin8nm")
    return root


@pytest.fixture
def checkout(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "checkout")


def contents(checkout: Path) -> dict[str, bytes]:
    files = (path for path in checkout.rglob("*") if path.is_file())
    return {path.relative_to(checkout).as_posix(): path.read_bytes() for path in files}


def lines(checkout: Path) -> dict[str, dict[str, str]]:
    rows = csv.DictReader((checkout / "results.csv").read_text().splitlines())
    return {row["model"]: row for row in rows}


def record_of(checkout: Path, name: str) -> Record:
    return next(one for one in records(checkout / "hub_configs") if one.name == name)


def test_staging_a_model_changes_its_folder_and_its_line(checkout):
    before, old = contents(checkout), lines(checkout)
    shutil.rmtree(checkout / "hub_configs" / "tiny")
    staged_folder.stage(checkout / "hub_configs" / "tiny", seed=1)
    after, new = contents(checkout), lines(checkout)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    assert {path for path in changed if not path.startswith("hub_configs/tiny/")} == {"results.csv"}
    assert [name for name in old | new if old.get(name) != new.get(name)] == ["tiny"]


def test_a_new_model_gets_a_line(checkout):
    old = lines(checkout)
    staged_folder.stage(checkout / "hub_configs" / "new")
    new = lines(checkout)
    assert [*new] == sorted([*old, "new"])
    assert {name: new[name] for name in old} == old


def test_the_readme_shows_the_score_of_a_model_of_its_table(checkout):
    text = (checkout / "README.md").read_text()
    assert text.startswith("# Title\n\n<!-- families table -->\n| test nats | ImpFlow | ResFlow |")
    assert f"| kin8nm |  | {score(record_of(checkout, 'any-name'))} |" in text
    assert text.endswith("\n<!-- end of families table -->\n\nAfter.\n")


def test_columns(checkout):
    tiny, planned = lines(checkout)["tiny"], lines(checkout)["planned"]
    assert (tiny["kind"], tiny["data"], tiny["n"]) == ("ResFlow", "moons", "10000")
    assert (tiny["parameters"], tiny["minutes"], tiny["groups"]) == ("130", "0.1", "")
    assert float(tiny["value"]) < 0 < float(tiny["stderr"])
    assert float(tiny["margin"]) == pytest.approx(0.2, abs=1e-4)
    assert len(tiny["sha256"]) == 64
    assert (planned["value"], planned["sha256"], planned["parameters"]) == ("", "", "")


def test_a_folder_elsewhere_is_compared_with_nothing(tmp_path):
    staged_folder.stage(tmp_path / "runs" / "own")
    (tmp_path / "results.csv").write_text("mine\n")
    staged_folder.stage(tmp_path / "runs" / "own")
    assert (tmp_path / "results.csv").read_text() == "mine\n"


def test_the_files_of_the_repository_are_up_to_date():
    """If this fails: `python docs/renew.py`, and commit what it writes."""
    made = comparison(CHECKOUT / "hub_configs")
    assert {path.name for path in made} == {"results.csv", "README.md"}
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, path


def test_families_without_a_model_have_an_empty_cell():
    rows = families_table(records(CHECKOUT / "hub_configs")).splitlines()[2:]
    assert [re.match(r"\| ([\w ]+) \|", row)[1] for row in rows] == [
        "kin8nm",
        "power plant",
        "protein",
        "BSDS300",
    ]
    assert all(row.count("|") == 7 for row in rows)


def test_a_spline_layer_among_implicit_blocks_makes_another_family():
    found = [one for one in records(CHECKOUT / "hub_configs") if one.name.endswith("-kin8nm")]
    families = {family: record.name for family, record in of_families(found)["kin8nm"].items()}
    assert families == {
        "ImpFlow": "impflow-kin8nm",
        "ResFlow": "resflow-kin8nm",
        "SplineFlow": "spline-kin8nm",
        "ImpFlow with a spline layer": "mixed-kin8nm",
    }
