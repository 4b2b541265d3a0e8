"""Groups of the rows of a table: read beside them, and never one of their columns."""

from __future__ import annotations

from pathlib import Path

import numpy
import pandas
import pytest
import torch

from impflow_zoo.data import DataError, TableSource, open_source, open_table
from impflow_zoo.data.source import fingerprint

FRAME = pandas.DataFrame({"a": [1.5, 2.5, 3.5, 4.5], "group": [7, 3, 7, 7], "b": [5, 6, 7, 8]})
ROWS = [[1.5, 5], [2.5, 6], [3.5, 7], [4.5, 8]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def written(path: Path, groups: object = None) -> Path:
    """The table in a file, with other groups if some are given."""
    frame = FRAME if groups is None else FRAME.assign(group=groups)
    if path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        getattr(frame, f"to_{path.suffix[1:]}")(path, index=False)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("groups", [[7, 3, 7, 7], ["sky", "sea", "sky", "sky"]], ids=str)
@pytest.mark.parametrize("columns", [None, ["b", "a"]], ids=str)
def test_groups_are_numbered_in_the_order_of_the_rows(tmp_path, suffix, groups, columns):
    source = open_source(written(tmp_path / f"t.{suffix}", groups), columns=columns)
    assert isinstance(source, TableSource)
    assert source.groups.tolist() == [0, 1, 0, 0]
    assert source.columns == tuple(columns or ("a", "b"))
    assert source.rows(range(4)).tolist() == [row[::-1] if columns else row for row in ROWS]


def test_one_number_is_one_group_however_it_is_written(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,group\n1,1\n2,1.0\n3, 1\n4,2\n")
    assert open_table(path).groups.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_long_ids_that_differ_are_different_groups(tmp_path, suffix):
    """As float64 they would be one."""
    ids = [str(89445000000000000000 + i) for i in (0, 13, 0, 26)]
    assert open_table(written(tmp_path / f"t.{suffix}", ids)).groups.tolist() == [0, 1, 0, 2]
    assert open_table(FRAME.assign(group=ids)).groups.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    "groups",
    [[True, False, True, True], list(pandas.to_datetime([5, 6, 5, 5], unit="D"))],
    ids=["truth values", "dates"],
)
def test_a_frame_and_its_files_have_the_same_groups(tmp_path, groups):
    frame = FRAME.assign(group=groups)
    assert open_table(frame).groups.tolist() == [0, 1, 0, 0]
    for suffix in ("csv", "parquet"):
        path = written(tmp_path / f"t.{suffix}", groups)
        assert open_table(path).groups.tolist() == [0, 1, 0, 0]


def test_ids_with_underscores_and_leading_zeros_are_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,group\n1,1_12\n2,11_2\n3,007\n4,7\n")
    assert open_table(path).groups.tolist() == [0, 1, 2, 3]


def two_files(folder, first, second):
    for name, groups in (("one", first), ("two", second)):
        pandas.DataFrame({"a": [1.0, 2.0], "group": groups}).to_parquet(folder / f"{name}.parquet")
    return folder


def test_whole_numbers_of_two_widths_are_the_same_groups(tmp_path):
    folder = two_files(tmp_path, numpy.int32([4, 7]), numpy.int64([7, 4]))
    assert open_table(folder).groups.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("other", [["4", "7"], pandas.to_datetime([4, 7])], ids=["text", "dates"])
def test_groups_of_another_type_in_each_file_are_refused(tmp_path, other):
    with pytest.raises(DataError, match="'group' has another type in each file"):
        open_table(two_files(tmp_path, [4, 7], other))


def test_lists_are_no_groups():
    with pytest.raises(DataError, match="by whole numbers or text, not by list"):
        open_table(FRAME.assign(group=[[1], [2], [1], [1]]))


def test_a_table_without_the_column_has_no_groups(tmp_path):
    path = tmp_path / "t.csv"
    FRAME.drop(columns="group").to_csv(path, index=False)
    assert open_table(path).groups is None
    assert open_source("toy:moons").groups is None


def test_groups_go_with_their_rows(tmp_path):
    source = open_table(written(tmp_path / "t.csv"))
    part = source.part(range(1, 4, 2))
    assert part.groups.tolist() == [1, 0]
    assert part.rows(range(2)).tolist() == [ROWS[1], ROWS[3]]
    assert source.chosen(["b"]).groups.tolist() == [0, 1, 0, 0]


def test_groups_are_no_part_of_what_tells_sets_apart(tmp_path):
    """A run that began on the same rows without groups goes on."""
    source = open_table(written(tmp_path / "t.csv"))
    plain = TableSource("plain", torch.tensor(ROWS, dtype=torch.float64), ("a", "b"))
    assert fingerprint(source) == fingerprint(plain)


BAD = {
    "a row without one": ([7, None, 7, 7], None, "row 1 has none: fill or rename"),
    "an empty text": (["x", "", "x", "x"], None, "row 1 has none: fill or rename"),
    "a quantity": ([0.5, 1.5, 0.5, 0.5], None, "whole numbers or text: rename it"),
    "asked for as a feature": ([7, 3, 7, 7], ["a", "group"], "'group' .* a model cannot take it"),
}


@pytest.mark.parametrize(("groups", "columns", "message"), BAD.values(), ids=BAD)
def test_mistakes(tmp_path, groups, columns, message):
    path = written(tmp_path / "t.csv", groups)
    with pytest.raises(DataError, match=message) as caught:
        open_table(path, columns=columns)
    assert "\n" not in str(caught.value)


def test_a_group_for_every_row():
    with pytest.raises(DataError, match="two: groups of 3 rows, .* 2"):
        TableSource("two", torch.eye(2, dtype=torch.float64), "ab", groups=torch.arange(3))
