"""Evaluation of a model by its id, on data of its repository, its recipe or another repository."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.by_id import REPO
from support.client_process import fails
from support.small_models import rows

from impflow_zoo.evaluation.entries import Entry, results_text
from impflow_zoo.models.filenames import RESULTS


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


CSV = b"x0,x1,note\n1.5,2,good\n4,5,7\n"
TABLES = {
    "one field more": (b"x0,x1\n1.5,2,3\n4,5,6\n", "row 0 (line 2) has 3 fields"),
    "text in a column": (CSV, "'note' is not numeric, row 0 "),
    "whole numbers above 2^53": (b"x0,x1\n9007199254740993,1\n", "'x0' holds whole numbers above"),
    "Latin-1": ("x0,x1,gr\xfc\xdf\n1,2,3\n".encode("latin-1"), "save it as UTF-8"),
    "a name twice": (b"x0,x0\n1,2\n", "several columns are called 'x0'"),
    "semicolons": (b"x0;x1\n1,5;2\n", "separated by ';'"),
}


@pytest.mark.parametrize("name", TABLES)
def test_csv_files_of_the_hub_are_read_as_strictly_as_others(hub, online, name):
    content, said = TABLES[name]
    hub.add("someone/table", {"README.md": b"# Rows", "test.csv": content}, kind="dataset")
    columns = ["x0", "note"] if content is CSV else ["x0"]
    said_of_all = online(opened, "someone/table", columns)
    assert fails(said_of_all, "DataError", said).startswith("someone/table")


def opened(dataset: str, columns: list[str] | None = None, **options: Any) -> list[list[float]]:
    from impflow_zoo.data import open_table

    source = open_table(dataset, columns=columns, **options)
    return source.rows(range(len(source))).tolist()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_tables_of_the_hub_are_kept_for_times_without_it(hub, online, offline, kind):
    content = {
        "csv": b"x0,x1\n1.5,2\n",
        "jsonl": b'{"x0": 1.5, "x1": 2}',
        "parquet": table([[1.5, 2.0]]),
    }[kind]
    files = {f"data/{split}.{kind}": content for split in ("train", "test")}
    old = hub.add("someone/kept", files, kind="dataset")
    assert online(opened, "someone/kept", split="test") == [[1.5, 2]]
    hub.requests.clear()
    assert offline(opened, "someone/kept", split="train") == [[1.5, 2]]
    assert offline(opened, "someone/kept", split="train", revision=old) == [[1.5, 2]]
    fails(offline(opened, "someone/kept", split="valid"), "DataError", "test")
    fails(offline(opened, "someone/other"), "DataError", "Couldn't reach 'someone/other'")
    assert hub.requests == []
    hub.add("someone/kept", {f"train.{kind}": content}, kind="dataset")
    assert online(opened, "someone/kept") == [[1.5, 2]]
    assert online(opened, "someone/kept", split="test", revision=old) == [[1.5, 2]]


def test_sets_of_the_hub_hold_their_own_tables(hub, online, tmp_path):
    (tmp_path / "secret.csv").write_text("a\n7\n")
    hub.add("someone/other", {"test.csv": b"a\n1\n"}, kind="dataset")
    elsewhere = "belong to someone/page"
    places = {
        str(tmp_path / "secret.csv"): elsewhere,
        "hf://datasets/someone/other/test.csv": elsewhere,
        "train.csv.gz": "cannot read files of type .gz",
    }
    for place, said in places.items():
        page = f"---\nconfigs:\n- config_name: default\n  data_files: {place!r}\n---\n".encode()
        files = {"README.md": page, "train.csv": b"a\n1\n", "train.csv.gz": b"a"}
        hub.add("someone/page", files, kind="dataset")
        hub.requests.clear()
        fails(online(opened, "someone/page"), "DataError", said)
        assert not [path for _, path in hub.requests if path.endswith((".csv", ".gz"))]
