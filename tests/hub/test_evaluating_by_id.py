"""Evaluation of a model by its id, on data of its repository, its recipe or another repository."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.by_id import REPO
from support.client_process import fails
from support.small_models import rows

from impflow_zoo.evaluation.entries import Entry, results_text
from impflow_zoo.models.folder import RESULTS


def table(values: list[list[float]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    columns = {f"x{i}": list(column) for i, column in enumerate(zip(*values, strict=True))}
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue().to_pybytes()


def score(model: str, dataset: str | None = None, **options: Any) -> tuple[Any, ...]:
    from impflow_zoo import evaluate

    result = evaluate(model, dataset, **options)
    return result.n, result.value, result.split, result.published


def test_evaluate_by_id_takes_the_split_in_the_repository(hub, online, offline, models):
    values = rows(7).tolist()
    hub.add(REPO, {**models[0], "test.parquet": table(values)})
    n, value, split, published = online(score, REPO)
    assert (n, split, published) == (7, None, None)
    assert online(score, REPO, limit=3)[0] == 3
    hub.requests.clear()
    assert offline(score, REPO) == (n, value, split, published)
    assert hub.requests == []


def test_evaluate_by_id_takes_the_data_of_the_recipe(hub, online, models):
    recipe = {"model": "ResFlow", "config": json.loads(models[0]["config.json"])["config"]}
    recipe["data"] = {"dataset": "toy:moons", "test": "test"}
    hub.add("zoo/toy", {**models[0], "recipe.yaml": json.dumps(recipe).encode()})
    assert online(score, "zoo/toy", limit=5)[:1] == (5,)
    assert online(score, "zoo/toy", limit=5)[2] == "test"


def known(value: float) -> bytes:
    """A `results.json` with a value."""
    entry = Entry(
        data="t",
        split="test",
        metric="log_likelihood",
        value=value,
        stderr=0.1,
        estimator_stderr=0.0,
        n=5,
        seed=0,
        logdet="exact",
        round_trip=1e-6,
    )
    return results_text((entry,)).encode()


def test_results_of_the_revision_asked_for(hub, online, models):
    """A model loaded from an old commit is compared with the results of that commit."""
    data = {"test.parquet": table(rows(5).tolist())}
    old = hub.add("zoo/scored", {**models[0], **data, RESULTS: known(-1.5)})
    hub.add("zoo/scored", {**models[0], **data, RESULTS: known(-2.5)})
    assert online(score, f"zoo/scored@{old}")[3] == -1.5
    assert online(score, "zoo/scored")[3] == -2.5
    hub.add("zoo/scored", {**models[0], **data, RESULTS: b"[{"})
    assert online(score, "zoo/scored")[3] is None


def test_dataset_repository_by_id_and_streamed(hub, online, models):
    values = rows(20).tolist()
    hub.add(REPO, models[0])
    files = {f"data/{s}-00000-of-00001.parquet": table(values) for s in ("train", "test")}
    hub.add("someone/rows", files, kind="dataset")
    n, value, split, _ = online(score, REPO, "someone/rows", split="test")
    assert (n, split) == (20, "test")
    hub.add(REPO, {**models[0], "test.parquet": table(values)})
    assert online(score, REPO)[1] == pytest.approx(value, rel=1e-12)
    assert online(_stream, "someone/rows") == values[:3]
    fails(online(score, REPO, "someone/rows"), "DataError", "several splits", "train, test")


def _stream(dataset: str) -> list[list[float]]:
    from datasets import load_dataset

    stream = load_dataset(dataset, split="test", streaming=True)
    return [list(row.values()) for row in stream.take(3)]


def test_dataset_repositories_in_trouble(hub, online, models):
    hub.add(REPO, models[0])
    hub.add("someone/gated", {"test.parquet": b""}, kind="dataset", gated=True)
    hub.add("someone/broken", {"test.parquet": table(rows(5).tolist())[:-50]}, kind="dataset")
    for name in ("missing", "gated", "broken"):
        fails(online(score, REPO, f"someone/{name}"), "DataError", f"someone/{name}")
    hub.add("someone/shifted", {"test.csv": b"x0,x1\n1.5,2,3\n4,5,6\n"}, kind="dataset")
    fails(online(score, REPO, "someone/shifted"), "DataError", "rows have more fields than the")
