"""Scores of rows that come in groups: errors are clustered, and say so."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest
import torch
from support.small_models import make, rows, write_recipe

from impflow_zoo import create_model, evaluate, training
from impflow_zoo.data import open_toy
from impflow_zoo.evaluation.standard_errors import standard_error

LABELS = [f"photograph {i % 7}" for i in range(40)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Forty rows, in seven groups."""
    path = tmp_path / "test.csv"
    pandas.DataFrame(rows(40).numpy(), columns=["a", "b"]).assign(group=LABELS).to_csv(
        path, index=False
    )
    return path


@pytest.mark.parametrize("columns", [(), ("a", "b"), ("b", "a")], ids=str)
def test_an_error_is_clustered_where_rows_have_groups(table, columns):
    found = evaluate(make(columns=columns), table)
    groups = torch.arange(40) % 7
    assert (found.n, found.groups) == (40, 7)
    assert found.row_groups.equal(groups)
    assert found.stderr == pytest.approx(float(standard_error(found.per_row, groups)))
    assert found.stderr != pytest.approx(float(standard_error(found.per_row)), rel=1e-3)


@pytest.mark.parametrize("batch_size", [3, 1000])
def test_a_limit_takes_the_groups_of_the_first_rows(table, batch_size):
    found = evaluate(make(), table, limit=5, batch_size=batch_size)
    assert (found.n, found.groups, found.row_groups.tolist()) == (5, 5, [0, 1, 2, 3, 4])
    assert found.stderr == pytest.approx(float(standard_error(found.per_row)))


def test_the_estimator_error_is_not_clustered(table, tmp_path):
    alone = tmp_path / "alone.csv"
    pandas.read_csv(table).drop(columns="group").to_csv(alone, index=False)
    model = make(logdet={"mode": "truncated", "n_terms": 3, "n_probes": 2})
    grouped, plain = evaluate(model, table), evaluate(model, alone)
    assert grouped.value == pytest.approx(plain.value, rel=1e-12)
    assert grouped.estimator_stderr == pytest.approx(plain.estimator_stderr, rel=1e-12)
    assert (plain.groups, plain.row_groups) == (None, None)


def test_the_report_and_the_json_name_the_number_of_groups(table):
    found = evaluate(make(), table)
    assert f"+- {found.stderr:.4f} nats, clustered by 7 groups\n" in found.report("mine")
    assert str(found).startswith(f"{found.value:.4f} +- {found.stderr:.4f} nats, clustered by 7 g")
    stated = json.loads(json.dumps(found.to_dict()))
    assert stated["groups"] == 7
    assert "row_groups" not in stated
    plain = evaluate(make(), "toy:moons", limit=9)
    assert plain.to_dict()["groups"] is None
    assert "groups" not in plain.report("mine")


def test_a_model_is_trained_on_the_columns_alone(tmp_path):
    """And a run that began on the same rows without groups goes on with them."""
    recipe = write_recipe(tmp_path / "recipe", data={"dataset": None})
    for folder, groups in (("plain", {}), ("grouped", {"group": [i // 9 for i in range(200)]})):
        (tmp_path / folder).mkdir()
        frame = pandas.DataFrame(open_toy("moons", 200).rows(range(200)), columns=["a", "b"])
        for split in ("train", "validation"):
            frame.assign(**groups).to_csv(tmp_path / folder / f"{split}.csv", index=False)
    plain, grouped = (str(tmp_path / folder) for folder in ("plain", "grouped"))
    out = tmp_path / "run"
    training.train(recipe, data=plain, out=out, max_minutes=0.0, progress=False)
    state = training.train(recipe, data=grouped, out=out, resume=True, progress=False)
    assert state["step"] == 4
    assert create_model(out).config.columns == ("a", "b")
    training.train(recipe, data=grouped, out=tmp_path / "again", progress=False)
    assert create_model(tmp_path / "again").config.columns == ("a", "b")
