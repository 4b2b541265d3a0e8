"""The card of a conditional model: its picture, its predictions, and lines of code that run."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import torch
from support.small_models import write_recipe
from support.snippets import run_snippet

from impflow_zoo import training
from impflow_zoo.evaluation import Result
from impflow_zoo.models.filenames import CARD, PICTURE
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.zoo import staging
from impflow_zoo.zoo.record import Record

STRANGE = {"columns": ["a|<b>, c"], "context_columns": ["`t`\nimport nothing", "$(p), q"]}


def staged(folder: Path, names: dict[str, list[str]]) -> tuple[Path, Result | None]:
    """A model of one column given two others, staged."""
    torch.manual_seed(0)
    c = torch.randn(60, 2, dtype=torch.float64)
    rows = [(a, t, p) for (t, p), a in zip(c.tolist(), c.sum(dim=1).tolist(), strict=True)]
    with (folder / "train.csv").open("w") as file:
        csv.writer(file).writerows([[*itertools.chain(*names.values())], *rows])
    recipe = write_recipe(
        folder / "zoo" / "linear-a",
        "LinearGaussian",
        config={"kind": "linear-gaussian", "features": 1, **names},
        data={"dataset": file.name, "validation_rows": 20, "test": "train"},
    )
    training.train(recipe, out=folder / "run", progress=False)
    return recipe.parent, staging.stage(folder / "run", recipe.parent)


def test_a_conditional_model_is_staged_with_its_predictions(tmp_path, monkeypatch):
    folder, result = staged(tmp_path, {"columns": ["a"], "context_columns": ["t", "p"]})
    assert Record(ModelFolder(folder)).entry.predictive == result.predictive != ()
    card = (folder / CARD).read_text()
    assert f"| a | {result.predictive[0].rmse:.4g} |" in card
    assert "--given t=" in card
    monkeypatch.chdir(folder.parent)
    run_snippet(card)
    assert (folder / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_names_of_strangers_are_neither_markup_nor_code(tmp_path, monkeypatch):
    folder, _ = staged(tmp_path, STRANGE)
    card = (folder / CARD).read_text()
    assert r'| columns, in order | "a\|\<b\>, c" |' in card
    assert r'| \`t\` import nothing, "\$\(p\), q" |' in card
    assert '\n# `t` import nothing, "$(p), q"\n' in card
    assert r"| a\|\<b\>, c |" in card
    assert "--given FILE" in card
    monkeypatch.chdir(folder.parent)
    run_snippet(card)
