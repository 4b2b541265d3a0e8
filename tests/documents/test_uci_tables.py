"""The splits of three tables, on made-up files of the published layouts."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas
import pytest
from support.checkout import CHECKOUT
from support.command_line import call
from support.published_tables import uci_table
from uci_tables import TABLES, read

from impflow_zoo.data import DataError, open_source

SIZES = {
    "kin8nm": (6636, 737, 819),
    "power-plant": (7750, 861, 957),
    "protein": (37042, 4115, 4573),
}


def published_places(rows: int, test: int) -> np.ndarray:
    """Where the test rows stand in the file, drawn as the published script draws them."""
    generator = np.random.RandomState(1)
    return np.sort(generator.choice(range(rows), rows, replace=False)[rows - test :])


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_split_as_published(tmp_path: Path, name: str) -> None:
    rows = uci_table(tmp_path, name).to_numpy(np.float32)
    train, validation, test = (part.numpy() for part in read(tmp_path, TABLES[name]))
    assert (len(train), len(validation), len(test)) == SIZES[name]
    np.testing.assert_array_equal(test, rows[published_places(len(rows), len(test))])
    whole = np.concatenate((train, validation, test))
    np.testing.assert_array_equal(np.sort(whole, axis=0), np.sort(rows, axis=0))


def test_test_rows_that_stand_in_other_splits_are_dropped(tmp_path: Path) -> None:
    rows = uci_table(tmp_path, "kin8nm")
    others, tested = [0, 1, 2], published_places(8192, 819)[:3]
    assert not set(others) & set(tested)
    rows.iloc[tested] = rows.iloc[others].to_numpy()
    rows.to_csv(tmp_path / TABLES["kin8nm"].file, index=False)
    parts = read(tmp_path, TABLES["kin8nm"])
    assert [len(part) for part in parts] == [6636, 737, 816]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[::-1],
            r"protein\.csv: 45,730 rows, RMSD of the first is .* it is 17\.284",
        ),
        (lambda rows: rows[:-1], r"45,729 rows, .* the published file has 45,730 rows"),
        (lambda rows: rows.drop(columns=["F2", "F7"]), r"there is no column F2, F7"),
        (lambda rows: rows.replace(rows.iloc[3, 0], np.nan), r"row 3, column 0 is missing"),
    ],
)
def test_another_file_is_refused(
    tmp_path: Path, change: Callable[[pandas.DataFrame], pandas.DataFrame], message: str
) -> None:
    file = tmp_path / "protein.csv"
    change(uci_table(tmp_path, "protein")).to_csv(file, index=False)
    with pytest.raises(DataError, match=message):
        read(file, TABLES["protein"])


def test_the_command_writes_a_folder_to_train_on(tmp_path: Path) -> None:
    rows = uci_table(tmp_path, "power-plant")
    script = partial(runpy.run_path, str(CHECKOUT / "examples/prepare.py"), run_name="__main__")
    said = call(script, "prepare.py", "power-plant", tmp_path, tmp_path / "out")
    assert said.code == 0, said.err
    assert said.out.startswith("7,750 rows of 5 columns in ")
    source = open_source(tmp_path / "out", "test")
    test = read(tmp_path, TABLES["power-plant"])[2]
    assert source.rows(range(len(source))).float().equal(test)
    written = pandas.read_parquet(tmp_path / "out" / "test.parquet")
    assert list(written) == list(rows)


def test_a_workbook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "CASP.csv").write_bytes(b"PK\x03\x04\x14\x00\x06\x00\xff\xfe")
    with pytest.raises(DataError, match=r"CASP\.csv is not a CSV file"):
        read(tmp_path, TABLES["protein"])
