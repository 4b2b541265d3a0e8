"""The tables of the site say what the folders say; cards and install lines are up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import renew
import tables
from support import staged_folder
from support.checkout import CHECKOUT

from impflow_zoo.models import registry
from impflow_zoo.training.recipe import read_recipe
from impflow_zoo.zoo.install import requirement
from impflow_zoo.zoo.record import Record, records


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and a recipe without weights, in a checkout."""
    zoo = tmp_path_factory.mktemp("checkout") / "hub_configs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "zoo_folder", lambda: zoo)
        for seed, name in enumerate(("tiny", "other")):
            staged_folder.stage(zoo / name, seed)
    (zoo / "planned").mkdir()
    (zoo / "planned" / "recipe.yaml").write_text((zoo / "tiny" / "recipe.yaml").read_text())
    (zoo.parent / "README.md").write_text("<!-- install -->\n<!-- end of install -->\n")
    (zoo.parent / "space").mkdir()
    (zoo.parent / "space" / "requirements.txt").write_text("--first\nimpflow_zoo[demo]==0.1\n")
    return zoo


@pytest.fixture(scope="module")
def found(zoo: Path) -> list[Record]:
    return records(zoo)


def test_models_of_one_data_set_stand_together_the_best_first(found):
    ranked = sorted((r for r in found if r.entry), key=lambda record: -record.entry.value)
    rows = tables.models_table(found).splitlines()[2:]
    assert [row.split("](")[0] for row in rows] == [f"| [{record.name}" for record in ranked]


def test_papers_stand_below_the_models_of_a_data_set(found):
    figure = {"name": "a Gaussian", "value": "-3.1", "stderr": "0.1", "source": "a paper"}
    text = tables.by_data_set(found, {"moons": [figure]})
    assert text.startswith("### Moons\n\n| model | nats | notes |")
    last, _, recipes = text.splitlines()[-3:]
    assert last == "| a Gaussian | -3.1 ± 0.1 | a paper |"
    assert re.search(r"\| \[tiny\]\(../hub_configs/tiny\) \| -\d+.\d+ ± ", text)
    assert recipes == "Recipes without weights: [planned](../hub_configs/planned/recipe.yaml)."


def test_the_guide_shows_what_the_first_evaluation_prints():
    text = tables.first_evaluation()
    assert "\ndata                 .../hub_configs/impflow-power-plant/test.parquet: 946" in text
    for line in ("log likelihood", "a Gaussian", "on the card", "estimator error", "solver"):
        assert f"\n{line} " in text
    assert "time" not in text


def test_each_table_has_one_place_which_reads_as_a_sentence_on_github():
    pages = "".join(path.read_text("utf-8") for path in (CHECKOUT / "docs").glob("*.md"))
    for name in (*tables.pages(records(CHECKOUT / "hub_configs")), "first-steps"):
        place = rf"<!-- {name} -->\n(.+?)\n<!-- end of {name} -->"
        shown = re.findall(place, pages, re.DOTALL)
        assert len(shown) == 1 or name == "read-on-the-site"
        assert all(re.match(r"(The|A|\[).*\.$", text, re.DOTALL) for text in shown), name
    assert "{include}" not in pages


def test_cards_and_install_lines_are_up_to_date():
    """If this fails: `python docs/renew.py`, and commit what it writes."""
    for path, text in renew.renewed(CHECKOUT).items():
        assert path.read_text(encoding="utf-8") == text, path


def test_a_card_is_made_from_its_folder(zoo):
    card = zoo / "tiny" / "README.md"
    text = card.read_text()
    card.write_text("edited by hand")
    assert renew.renewed(zoo.parent)[card] == text


def test_pages_and_the_demo_on_the_hub_install_what_there_is(zoo):
    made = renew.renewed(zoo.parent)
    assert requirement("plot") in made[zoo.parent / "README.md"]
    lines = made[zoo.parent / "space" / "requirements.txt"].splitlines()
    assert lines == ["--first", requirement("demo")]


def test_a_card_speaks_of_its_own_model_alone():
    """It has no name but its own, and measured figures where they are made: not in its limits."""
    zoo = CHECKOUT / "hub_configs"
    names = {path.name for path in zoo.iterdir()}
    for card in zoo.glob("*/README.md"):
        words = set(re.findall(r"[\w-]+", card.read_text(encoding="utf-8")))
        assert words & names == {card.parent.name}
    for recipe in zoo.glob("*/recipe.yaml"):
        limits = read_recipe(recipe).card.limits
        assert not re.findall(r"\d+[.,]\d+", " ".join(limits)), recipe.parent.name
