"""Tables by index, and every mistake a table can hold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy
import pandas
import pytest
import torch

from impflow_zoo.data import (
    DataError,
    LeftOutWarning,
    Source,
    TableSource,
    checksum,
    fingerprint,
    open_source,
    open_table,
)

unused = pytest.mark.filterwarnings("ignore:.*columns that are not used")
FRAME = pandas.DataFrame(
    {
        "a": [1, 2, 3, 4],
        "name": ["p", "q", "r", "s"],
        "b": [0.5, 1.5, 2.5, 3.5],
        "flag": [True, False, True, False],
        "c": pandas.array([7.25, 8.0, 9.0, 1e6], dtype="float32"),
    }
)
NUMERIC = [[1, 0.5, 7.25], [2, 1.5, 8], [3, 2.5, 9], [4, 3.5, 1e6]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` keeps of made-up files goes with them."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three splits as the Hub lays them out."""
    folder = tmp_path / "set"
    folder.mkdir()
    for i, split in enumerate(("train", "validation", "test")):
        FRAME.iloc[i:].to_parquet(folder / f"{split}-00000-of-00001.parquet", index=False)
    return folder


def everything(source: Source) -> list[list[float]]:
    return source.rows(range(len(source))).tolist()


@unused
@pytest.mark.parametrize("name", ["x[1].csv", "x*.csv"])
def test_names_of_files_are_no_patterns(tmp_path: Path, name: str) -> None:
    FRAME.iloc[:3].to_csv(tmp_path / name, index=False)
    FRAME.to_csv(tmp_path / "x1.csv", index=False)
    assert len(open_table(str(tmp_path / name))) == 3


@unused
@pytest.mark.parametrize(("split", "first"), [("train", 0), ("validation", 1), ("test", 2)])
def test_folder_has_splits(folder: Path, split: str, first: int) -> None:
    source = open_table(str(folder), split)
    assert everything(source) == NUMERIC[first:]
    assert source.columns == ("a", "b", "c")
    assert source.name == f"{folder} ({split})"


@unused
@pytest.mark.parametrize("below", [False, True])
def test_a_folder_behind_a_link_is_read(tmp_path: Path, folder: Path, below: bool) -> None:
    (tmp_path / "link").symlink_to(folder.parent if below else folder)
    linked = tmp_path / "link" / "set" if below else tmp_path / "link"
    assert everything(open_table(linked, "test")) == NUMERIC[2:]


@pytest.mark.parametrize(
    ("name", "other"), [("test/train/rows.csv", "train/rows.csv"), ("train_test.csv", "train.csv")]
)
def test_a_file_in_two_splits_is_refused(tmp_path: Path, name: str, other: str) -> None:
    for file in (name, other):
        path = tmp_path / "set" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a,b\n1,2\n")
    with pytest.raises(
        DataError, match=f"{name} is in two splits, (train and test|test and train)"
    ):
        open_table(tmp_path / "set", "train")


@pytest.mark.parametrize("name", ["Test/rows.csv", "TEST.csv", "Val.csv", "Test/b/c.csv"])
def test_capitals_would_make_held_out_rows_a_part_of_the_training(tmp_path: Path, name: str):
    for file in (name, "Train.csv"):
        path = tmp_path / "set" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=f"{name} would be in the split train: .*small letters"):
        open_table(tmp_path / "set")


def test_folders_that_are_links_are_named(tmp_path: Path) -> None:
    for folder in ("set/part1", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "rows.csv").write_text("a,b\n1,2\n")
    (tmp_path / "set" / "part2").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(LeftOutWarning, match="folders that are links are not read: part2"):
        assert len(open_table(tmp_path / "set")) == 1


def test_columns_in_names_of_folders_are_named(tmp_path: Path) -> None:
    rows = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "group": [0, 1]})
    rows.to_parquet(tmp_path / "set", partition_cols=["group"])
    with pytest.warns(LeftOutWarning, match="names of folders are not read: group. Write"):
        assert open_table(tmp_path / "set").columns == ("a", "b")


@unused
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("stem", "split"), [("mine", "train"), ("test", "test"), ("validation-0-of-1", "validation")]
)
def test_single_file_is_one_split(tmp_path: Path, suffix: str, stem: str, split: str) -> None:
    file = tmp_path / f"{stem}.{suffix}"
    getattr(FRAME, f"to_{suffix}")(file, index=False)
    for asked in (None, split):
        assert everything(open_table(str(file), asked)) == NUMERIC


@unused
@pytest.mark.parametrize("lines", [True, False], ids=["lines", "list"])
@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_objects_of_json_are_rows(tmp_path: Path, name: str, lines: bool) -> None:
    FRAME.to_json(tmp_path / name, orient="records", lines=lines, indent=None if lines else 2)
    assert everything(open_table(str(tmp_path / name))) == NUMERIC


def test_columns_come_in_the_order_asked_for(folder: Path) -> None:
    source = open_source(folder, "train", columns=["c", "a"])  # a Path is a name, too
    assert isinstance(source, TableSource)
    assert source.columns == ("c", "a")
    assert everything(source) == [[row[2], row[0]] for row in NUMERIC]


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_columns_that_are_no_numbers_are_named(tmp_path: Path, suffix: str) -> None:
    options = {"orient": "records", "lines": True} if suffix == "json" else {}
    getattr(FRAME, f"to_{suffix}")(tmp_path / f"t.{suffix}", **options)
    with pytest.warns(LeftOutWarning) as seen:
        assert open_table(tmp_path / f"t.{suffix}").columns == ("a", "b", "c")
    (said,) = (str(warning.message) for warning in seen)
    assert said.startswith(f"{tmp_path / f't.{suffix}'} (train): columns that are not used: ")
    assert "'name' is not numeric, row 0 " in said
    assert "'flag' is not numeric, " in said
    assert "'a'" not in said


def test_class_labels_are_no_numbers(tmp_path: Path) -> None:
    """In memory and in a file."""
    features = datasets.Features(
        a=datasets.Value("float64"), species=datasets.ClassLabel(names=["setosa", "virginica"])
    )
    rows = datasets.Dataset.from_dict({"a": [0.5, 1.5], "species": [1, 0]}, features=features)
    rows.to_parquet(tmp_path / "t.parquet")
    for data in (rows, tmp_path / "t.parquet"):
        with pytest.warns(LeftOutWarning, match="not used: 'species' is not numeric"):
            assert open_table(data).columns == ("a",)


def test_whole_numbers_that_float64_rounds_are_no_column(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"id": [2**53 + 1, -1], "edge": [2**53, -(2**53)], "b": [1.5, 2.5]})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.warns(LeftOutWarning, match="not used: 'id' .*above 2\\^53"):
        assert open_table(tmp_path / "t.parquet").columns == ("edge", "b")
    with pytest.raises(DataError, match="'id' holds whole .*subtract an offset"):
        open_table(tmp_path / "t.parquet", columns=["b", "id"])


def test_whole_numbers_of_an_array_that_float64_rounds_are_no_column() -> None:
    with pytest.warns(LeftOutWarning, match="not used: 'x0' .*above 2\\^53"):
        assert open_table(numpy.array([[2**53 + 1, 1], [-1, 2]])).columns == ("x1",)


def test_index_left_by_pandas_is_no_feature(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "t.csv")
    with pytest.warns(LeftOutWarning, match="'Unnamed: 0' has no name"):
        assert open_table(str(tmp_path / "t.csv")).columns == ("a", "b", "c")
    assert open_table(str(tmp_path / "t.csv"), columns=["Unnamed: 0"]).rows([3]).item() == 3


@unused
@pytest.mark.parametrize(
    "indices", [[2, 0, 2], torch.tensor([2, 0, 2]), (2, 0, 2)], ids=["list", "tensor", "tuple"]
)
def test_rows_in_any_order(folder: Path, indices: list[int]) -> None:
    source = open_table(str(folder), "train")
    rows = source.rows(indices)
    assert rows.dtype == torch.float64
    assert rows.tolist() == [NUMERIC[2], NUMERIC[0], NUMERIC[2]]
    rows.zero_()  # the caller's own copy
    assert source.rows(range(2, 0, -1)).tolist() == [NUMERIC[2], NUMERIC[1]]
    assert source.rows([]).shape == (0, 3)
    assert isinstance(source, Source)


@unused
def test_a_part_has_numbers_of_its_own(folder: Path) -> None:
    part = open_table(str(folder), "train").part(range(1, 4, 2))
    assert len(part) == 2
    assert part.rows([1, 0]).tolist() == [NUMERIC[3], NUMERIC[1]]


def _opens(name: str, **settings: object) -> Callable[[Path], object]:
    return lambda root: open_source(str(root / name), **settings)


CONFIGS = """---
configs:
- {config_name: one, data_files: a.csv}
- {config_name: two, data_files: b.csv}
---
"""


@pytest.mark.parametrize(
    ("content", "call", "message"),
    [
        ({}, _opens("gone"), r"no such file or folder: .*gone"),
        ({}, lambda root: open_source("gone.parquet"), r"no such file or folder: gone"),
        ({"t.txt": "1 2"}, _opens("t.txt"), r"cannot read files of type \.txt"),
        ({"t.csv": ""}, _opens("t.csv"), r"the file is empty"),
        ({"t.csv": "a,b\n"}, _opens("t.csv"), r"the set is empty"),
        ({"t.parquet": "no"}, _opens("t.parquet"), r"cannot load dataset .*footer"),
        ({"d/x.md": "hi"}, _opens("d"), r"x\.md: cannot read .* \.md, only \.parquet"),
        ({"d/train.csv": "a\n1\n"}, _opens("d", split="test"), r"no split 'test', .*of: train"),
        (
            {"d/train.csv": "a\n1\n", "d/test.csv": "a\n1\n"},
            _opens("d"),
            r"several splits, .*: train, test",
        ),
        (
            {"d/a.csv": "a\n1\n", "d/b.csv": "a\n1\n", "d/README.md": CONFIGS},
            _opens("d"),
            r"Config name is missing.*'one', 'two'",
        ),
        ({"t.csv": "a,b\n1,2\n"}, _opens("t.csv", columns=["x", "b"]), r"no column x, only a, b"),
        ({"t.csv": "a;b\n1,5;2,5\n"}, _opens("t.csv"), r"separated by ';'"),
        ({"t.csv": "a;b\n1,5;2,5\n"}, _opens("t.csv", columns=["a"]), r"separated by ';'"),
        ({"t.csv": "a,b\n1,2\n"}, _opens("t.csv", columns=["a", "a"]), r"twice among a, a"),
        ({}, lambda root: open_source("toy:moons", columns=["x", "x"]), r"twice among x, x"),
        ({"t.csv": "1.5,1.5,2.5\n3,4,5\n"}, _opens("t.csv"), r"lack its header"),
        ({"t.csv": "1.5,2.5\n3,4\n"}, _opens("t.csv", columns=["a"]), r"lack its header"),
        (
            {"t.csv": "a,b\n1,2\n3,high\n"},
            _opens("t.csv", columns=["b"]),
            r"'b' is not numeric, row 1 .*'high'",
        ),
        (
            {"t.csv": "a,b\nx,y\n"},
            _opens("t.csv"),
            r"no numeric column: .a. is not numeric, row 0 holds .x., .b",
        ),
        ({"t.csv": "a,b\n1,2\n3,\n"}, _opens("t.csv"), r"row 1, column 'b' is nan .* 1 of 4"),
        ({"t.csv": "a,b\n1,inf\n3,nan\n"}, _opens("t.csv"), r"row 0, column 'b' is inf .* 2 of 4"),
        ({"t.csv": "a\n1\n"}, _opens("t.csv", size=5), r"size does not apply"),
        (
            {"d/train.csv": "a,b\n1,2,9\n"},
            _opens("d", columns=["a", "b"]),
            r"row 0 .* has 3 fields",
        ),
        ({"d[1]/train.csv": "a\n1\n"}, _opens("d[1]"), r"path holds \*, \? or \["),
        ({}, lambda root: open_source("csv"), r"no such file or folder: csv"),
    ],
)
def test_mistakes(
    tmp_path: Path, content: dict[str, str], call: Callable[[Path], object], message: str
) -> None:
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_hub_id_offline_says_so() -> None:
    script = """
from impflow_zoo.data import DataError, open_table
try:
    open_table("some-org/some-set", revision="main")
except DataError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(sys.path), "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "cannot load dataset 'some-org/some-set': Couldn't reach" in done.stdout, done.stderr
    assert "Offline" in done.stdout
    assert done.stdout.count("\n") == 1


def test_sets_of_rows_are_told_apart_by_their_rows():
    def of(values: torch.Tensor, name: str = "a") -> str:
        return fingerprint(TableSource(name, values, ("x", "y")))

    rows = torch.arange(80, dtype=torch.float64).view(40, 2)
    last = rows.clone()
    last[-1, 1] += 1
    assert of(rows) == of(rows.clone(), "b")
    assert len({of(rows), of(last), of(rows[:-1]), of(rows.flip(1)), of(rows[:1])}) == 5


def test_a_checksum_sees_every_row_and_their_order(monkeypatch: pytest.MonkeyPatch):
    def of(values: torch.Tensor) -> str:
        return checksum(TableSource("a", values, ("x", "y")))

    rows = torch.arange(200, dtype=torch.float64).view(100, 2)
    whole, changed = of(rows), set()
    for i in range(100):
        other = rows.clone()
        other[i, i % 2] += 0.5
        changed.add(of(other))
    assert len({whole, of(rows[:-1]), of(rows.flip(0)), *changed}) == 103
    monkeypatch.setattr("impflow_zoo.data.source._AT_ONCE", 7)
    assert of(rows) == whole


def test_the_file_is_read_that_was_named(tmp_path, monkeypatch):
    """`datasets` takes brackets for a pattern, and some names of folders for names of formats."""
    for folder, value in (("p [2]", 1), ("p 2", 7), ("csv", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.csv").write_text(f"a\n{value}\n")
    (tmp_path / "train.csv").write_text("a\n5\n")
    monkeypatch.chdir(tmp_path)
    assert open_table("csv").rows([0]).item() == 3
    monkeypatch.chdir(tmp_path / "p [2]")
    assert open_table("train.csv").rows([0]).item() == 1


def test_fractions_may_come_after_many_whole_numbers(tmp_path):
    path = tmp_path / "rows" / "t.csv"
    path.parent.mkdir()
    for other in ("LICENSE.txt", ".cache/a.lock"):
        (path.parent / other).parent.mkdir(exist_ok=True)
        (path.parent / other).write_text("x")
    path.write_text("a\n" + "1\n" * 10_000 + "1.5\n" * 5)
    for source in (open_table(path), open_table(path.parent)):
        assert source.rows([0, len(source) - 1]).flatten().tolist() == [1.0, 1.5]


def test_a_parquet_file_without_rows(tmp_path):
    pandas.DataFrame({"a": pandas.Series([], dtype=float)}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="the set is empty"):
        open_table(tmp_path / "t.parquet")


def test_files_of_one_table_have_the_same_columns(tmp_path):
    (tmp_path / "set").mkdir()
    for name in "ac":
        frame = pandas.DataFrame({name: [1]})
        frame.to_parquet(tmp_path / "set" / f"{name}-train.parquet")
    message = r"c-train.parquet: its columns are c, .*a-train.parquet are a"
    with pytest.raises(DataError, match=message):
        open_table(tmp_path / "set")


def test_numbers_that_are_stored_as_text_are_named(tmp_path):
    pandas.DataFrame({"a": ["1", "2"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"'a' is not numeric, it is .*string"):
        open_table(tmp_path / "t.parquet", columns=["a"])


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("whole", [False, True], ids=["file", "folder"])
def test_a_file_that_was_replaced_is_read_again(tmp_path, suffix, whole):
    """Though the new one has the time of the old one, as a copy may have."""
    path = tmp_path / "set" / f"test.{suffix}"
    path.parent.mkdir()
    for rows in (2, 3):
        new = tmp_path / f"new.{suffix}"
        frame = pandas.DataFrame({"a": range(rows), "b": range(rows)})
        if suffix == "jsonl":
            frame.to_json(new, orient="records", lines=True)
        else:
            getattr(frame, f"to_{suffix}")(new, index=False)
        os.utime(new, (1.6e9, 1.6e9))
        os.replace(new, path)
        assert len(open_table(path.parent if whole else path)) == rows
