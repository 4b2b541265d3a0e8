"""Weights of the rows of a table: read beside them, and never one of their columns."""

from __future__ import annotations

from pathlib import Path

import numpy
import pandas
import pytest
import torch

from impflow_zoo.data import DataError, TableSource, open_source, open_table
from impflow_zoo.data.source import fingerprint

FRAME = pandas.DataFrame(
    {"a": [1.5, 2.5, 3.5, 4.5], "w": [2.0, 0.0, 0.5, 1.0], "group": [7, 3, 8, 7]}
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", None])
@pytest.mark.parametrize("columns", [None, ["a"]], ids=str)
def test_rows_of_weight_zero_are_left_out(tmp_path, suffix, columns):
    data = FRAME
    if suffix is not None:
        data = tmp_path / f"t.{suffix}"
        options = {"orient": "records"} if suffix == "json" else {"index": False}
        getattr(FRAME, f"to_{suffix}")(data, **options)
    source = open_source(data, columns=columns, weights="w")
    assert isinstance(source, TableSource)
    assert source.columns == ("a",)
    assert source.rows(range(3)).tolist() == [[1.5], [3.5], [4.5]]
    assert source.weights.tolist() == [2, 0.5, 1]
    assert source.groups.tolist() == [0, 1, 0]


def test_weights_go_with_their_rows():
    source = open_table(FRAME, weights="w")
    assert source.part(range(1, 3)).weights.tolist() == [0.5, 1]
    assert source.chosen(["a"]).weights is source.weights
    assert open_table(FRAME).weights is None


def test_weights_tell_sets_apart():
    """A run goes on with the weights that it began with."""
    doubled, plain = FRAME.assign(w=2 * FRAME["w"]), FRAME[FRAME["w"] > 0].drop(columns="w")
    found = {fingerprint(open_table(frame, weights="w")) for frame in (FRAME, doubled)}
    assert len({*found, fingerprint(open_table(plain))}) == 3


BAD = {
    "negative": ({"w": [1, -2, 1, 1]}, {}, "row 1 has -2: .*at least 0"),
    "missing": ({"w": [1, 1, None, 1]}, {}, "row 2 has nan: .*at least 0"),
    "zero": ({"w": [0, 0, 0, 0]}, {}, "weights .* all of them are zero"),
    "too large": ({"w": [1e200, 1, 1, 1]}, {}, r"up to 1.0e\+200: divide them by"),
    "too small": ({"w": [1e-320, 0, 0, 1e-300]}, {}, "up to 1.0e-300: divide them by"),
    "text": ({"w": ["x", "y", "x", "x"]}, {}, "'w' holds .* weights .* it is not"),
    "unknown": ({}, {"weights": "v"}, "no column 'v' for the weights.* a, w"),
    "a misprint": ({"weight": 1.0}, {"weights": "wieght"}, "did you mean 'weight'?"),
    "a group": ({}, {"weights": "group"}, "cannot tell which rows belong together"),
    "an array": ({}, {"weights": numpy.ones(4)}, "weights of type ndarray: .*name"),
    "a feature": ({}, {"columns": ["a", "w"]}, "'w' .*a model cannot take it"),
}


@pytest.mark.parametrize(("changes", "options", "message"), BAD.values(), ids=BAD)
def test_mistakes(changes, options, message):
    with pytest.raises(DataError, match=message):
        open_table(FRAME.assign(**changes), **{"weights": "w", **options})


@pytest.mark.parametrize("data", ["toy:moons", torch.eye(2).numpy()], ids=["toy", "array"])
def test_data_without_names_have_no_weights(data):
    with pytest.raises(DataError, match=r"weights does not apply|no column 'w' for"):
        open_source(data, weights="w")


def test_a_weight_for_every_row():
    with pytest.raises(DataError, match="two: weights of 3 rows, .* 2"):
        TableSource("two", torch.eye(2, dtype=torch.float64), "ab", weights=torch.ones(3))
