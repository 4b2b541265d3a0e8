"""The documents show what the benchmarks' own code makes of the figures that are committed."""

from __future__ import annotations

import json

import classification_page
import classifier_block
import default_recipe
import documents
import fit_tables
import logdet_choices
import memory
import pytest
import speed
import time_to_quality
import torch_tools
import which_flow

from impflow_zoo.zoo.markdown import between

KEPT = {
    "classification": (classification_page.PAGE, classification_page.tables),
    "classifier-block": (documents.README, classifier_block.tables),
    "fit-tables": (documents.README, lambda figures: {"fit table": fit_tables.rows_of(figures)}),
    "logdet-choices": (documents.SOLVERS, logdet_choices.tables),
    "memory": (documents.README, memory.tables),
    "speed": (documents.README, speed.tables),
    "torch-tools": (documents.README, torch_tools.tables),
    "time-to-quality": (documents.README, time_to_quality.tables),
    "which-flow": (which_flow.PAGE, which_flow.tables),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_document_shows_the_figures_that_were_measured(name):
    """If this fails: run the script, and commit both of what it writes."""
    document, tables = KEPT[name]
    text = document.read_text(encoding="utf-8")
    figures = json.loads((documents.RESULTS / f"{name}.json").read_text())
    for marker, table in tables(figures).items():
        assert len(table.splitlines()) >= 4
        assert f"<!-- {marker} -->\n{table}\n<!-- end of {marker} -->" in text


def test_all_figures_are_shown_somewhere():
    kept = {path.stem for path in documents.RESULTS.iterdir()}
    own = {"default-recipe"}  # a table of its own
    assert {*KEPT, *own} == kept


def test_the_page_shows_the_recipes_that_were_compared():
    text = documents.README.read_text(encoding="utf-8")
    if rows := default_recipe.known(default_recipe.KEPT, default_recipe.MINUTES):
        table = default_recipe.table_of(rows)
        assert f"<!-- default recipe -->\n{table}\n<!-- end of default recipe -->" in text
    assert "<!-- end of default recipe -->" in text


def test_publishing_changes_the_tables_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "RESULTS", tmp_path / "results")
    document = tmp_path / "guide.md"
    document.write_text("a\n<!-- one -->\nold\n<!-- end of one -->\nb\n")
    table = documents.markdown("x | y", [("1", "2")])
    documents.publish(document, {"one": table}, {"x": 1}, "figures")
    expected = "a\n<!-- one -->\n| x | y |\n|---|---|\n| 1 | 2 |\n<!-- end of one -->\nb\n"
    assert document.read_text() == expected
    assert json.loads((tmp_path / "results" / "figures.json").read_text()) == {"x": 1}
    documents.publish(document, {"one": table}, {"x": 1}, "figures")
    assert document.read_text() == expected


@pytest.mark.parametrize("text", ["", "<!-- one -->", "<!-- end of one --> <!-- one -->"])
def test_a_text_without_a_place_for_a_table_is_refused(text):
    with pytest.raises(ValueError, match="there is no place for the one"):
        between(text, "one", "table")
