"""Names in messages: one with a comma is seen to be one."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest
import torch

from impflow_zoo.cli.options import between_commas
from impflow_zoo.data import DataError, TableSource, open_source, open_table
from impflow_zoo.data.names import listed

MIX = ["Cement, dry", "Water"]
ROW = pandas.DataFrame([[1.0, 2.0]], columns=MIX)


def test_the_command_line_takes_a_list_as_a_message_shows_it() -> None:
    assert between_commas(listed([*MIX, " Ash", 'a "b"'])) == [*MIX, " Ash", 'a "b"']


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_that_is_missing_is_told_with_those_there_are(tmp_path: Path, suffix: str) -> None:
    getattr(ROW, f"to_{suffix}")(file := tmp_path / f"t.{suffix}", index=False)
    with pytest.raises(DataError, match='no column "Ash, fly", only "Cement, dry", Water$'):
        open_table(file, columns=["Ash, fly"])


def test_a_toy_and_a_table_tell_their_columns() -> None:
    with pytest.raises(DataError, match='its columns are x, y, not "Cement, dry", Water'):
        open_source("toy:moons", columns=MIX)
    with pytest.raises(DataError, match='twice among "Cement, dry", "Cement, dry"'):
        TableSource("t", torch.eye(2, dtype=torch.float64), [MIX[0], MIX[0]])
