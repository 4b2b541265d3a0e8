"""Rows to train, validate and test on."""

from __future__ import annotations

import numpy
import pandas
import pytest
import torch

from impflow_zoo.data import DataError, open_table
from impflow_zoo.fitting import describe
from impflow_zoo.fitting.reading import read_table
from impflow_zoo.fitting.splits import split, write_splits
from impflow_zoo.models.fields import ModelError

FRAME = pandas.DataFrame(numpy.random.default_rng(0).normal(size=(100, 2)), columns=["a", "b"])


def splits(data: object, bounds: dict | None = None, **options: object) -> dict:
    table = read_table(data)
    findings = describe(table.first, name=table.name).with_stated(bounds or {}, {})
    return split(table, findings, 0, **options)


def test_a_tenth_is_held_out_twice_and_no_row_is_lost():
    found = splits(FRAME)
    assert {name: len(rows) for name, rows in found.items()} == {
        "train": 80,
        "validation": 10,
        "test": 10,
    }
    together = torch.cat([rows.rows(range(len(rows))) for rows in found.values()])
    assert set(together[:, 0].tolist()) == set(FRAME["a"])
    again = splits(FRAME)
    assert torch.equal(found["test"].rows(range(10)), again["test"].rows(range(10)))
    assert list(splits(FRAME, test=False)) == ["train", "validation"]


@pytest.mark.parametrize("groups", [numpy.repeat(range(20), 5), list("ab" * 50)])
def test_rows_of_a_group_stay_together(groups):
    frame = FRAME.assign(group=groups)
    if len(set(groups)) == 2:
        with pytest.raises(ValueError, match="left for train: too few groups"):
            splits(frame)
        return
    found = splits(frame)
    of_split = [set(rows.groups.tolist()) for rows in found.values()]
    assert sum(map(len, of_split)) == len(set.union(*of_split)) == 20


@pytest.mark.parametrize("groups", [4, 7, 10, 50])
def test_the_test_has_two_groups_at_least_so_that_its_score_has_an_error(groups):
    found = splits(FRAME.assign(group=numpy.arange(100) % groups))
    assert len(found["test"].groups.unique()) >= 2
    assert all(len(rows) for rows in found.values())


@pytest.mark.parametrize("row", [7, 55])
def test_rows_outside_of_bounds_are_refused_whichever_split_they_fall_into(row):
    """By their number in the table: before the training, not when all of its time is spent."""
    frame = FRAME.assign(part=FRAME["a"] / 10)
    frame.loc[row, "part"] = 2.5
    frame.loc[3] = [numpy.nan, 0.0, 9.0]  # a row that is left out
    with pytest.raises(ModelError, match=rf"part is not within .* 1 of 100 .* row {row}, 2.5"):
        splits(frame, {"part": (-1, 1)})
    assert len(splits(frame, {"part": (-1, 3)})["train"]) == 79


@pytest.mark.parametrize("rounded", [False, True])
def test_rounded_columns_alone_reach_their_bounds(rounded):
    part = numpy.random.default_rng(1).random(100)
    part[0], part[1] = 0.0, 1 - 1e-12  # which is 1 in float32
    frame = FRAME.assign(part=part.round(2) if rounded else part)
    if rounded:
        assert len(splits(frame, {"part": (0, 1)})["train"]) == 80
        return
    with pytest.raises(ModelError, match="part is not within .* 0 and 1, .*2 of 100"):
        splits(frame, {"part": (0, 1)})


@pytest.mark.parametrize(
    ("test", "reason"), [(FRAME[:1], "one row"), (FRAME[:9].assign(group=7), "one group")]
)
def test_a_test_whose_score_has_no_error_is_refused_before_the_training(tmp_path, test, reason):
    for name, part in {"train": FRAME.assign(group=range(100)), "test": test}.items():
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(DataError, match=f"the test has {reason}, .*no error"):
        splits(tmp_path)


def test_a_folder_keeps_its_splits(tmp_path):
    for name, part in {"train": FRAME[:60], "test": FRAME[60:]}.items():
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    found = splits(tmp_path)
    assert {name: len(rows) for name, rows in found.items()} == {
        "train": 54,
        "validation": 6,
        "test": 40,
    }
    held_out = found["test"].rows(range(40)).numpy()
    assert numpy.allclose(held_out, FRAME[60:])


def test_files_hold_the_same_rows(tmp_path):
    found = splits(FRAME.assign(group=numpy.repeat(range(20), 5)))
    write_splits(found, tmp_path)
    for name, rows in found.items():
        read = open_table(tmp_path, name)
        assert torch.equal(read.rows(range(len(read))), rows.rows(range(len(rows))))
        assert len(read.groups.unique()) == len(rows.groups.unique())


def test_an_absurd_value_is_named_with_its_row_in_the_file():
    frame = FRAME.copy()
    frame.loc[[2, 7], "b"] = [numpy.nan, 1e9]
    with pytest.raises(DataError, match="row 7, column 'b' is 1e.09"):
        splits(frame)
