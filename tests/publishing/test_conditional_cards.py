"""The card of a conditional model: its picture, its predictions, and lines of code that run."""

from __future__ import annotations

import re

import torch
from support.small_models import write_recipe

from impflow_zoo import training
from impflow_zoo.models.folder import CARD, PICTURE, ModelFolder
from impflow_zoo.publishing import staging
from impflow_zoo.record import Record


def test_a_conditional_model_is_staged_with_its_predictions(tmp_path):
    torch.manual_seed(0)
    c = torch.randn(60, 2, dtype=torch.float64)
    rows = [(a, t, p) for (t, p), a in zip(c.tolist(), c.sum(dim=1).tolist(), strict=True)]
    file = tmp_path / "train.csv"
    file.write_text("\n".join(["a,t,p", *(",".join(map(str, row)) for row in rows)]))
    names = {"columns": ["a"], "context_columns": ["t", "p"]}
    recipe = write_recipe(
        tmp_path / "zoo" / "linear-a",
        "LinearGaussian",
        config={"kind": "linear-gaussian", "features": 1, **names},
        data={"dataset": str(file), "validation_rows": 20, "test": "train"},
    )
    training.train(recipe, out=tmp_path / "run", progress=False)
    folder = recipe.parent
    result = staging.stage(tmp_path / "run", folder)
    assert result is not None
    assert Record(ModelFolder(folder)).entry.predictive == result.predictive != ()
    card = (folder / CARD).read_text()
    assert f"| linear-a | a | {result.predictive[0].rmse:.4g} |" in card
    assert "--given t=" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(code.replace('"linear-a"', repr(str(folder))), {})
    assert (folder / PICTURE).read_bytes().startswith(b"\x89PNG")
