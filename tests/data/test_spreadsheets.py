"""Tables that we write start no cell with a formula, and read back as they were."""

from __future__ import annotations

import csv
import io

import pandas
import pytest
import torch
from support.small_models import make

from impflow_zoo.data import DataError, open_table
from impflow_zoo.data.spreadsheets import as_csv, plain_name, safe_cell

NAMES = ('=HYPERLINK("http://a.example","b")', "-log10(p)", "+err", "@temp", "-", "plain")
FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "\uff0dcmd",
    "-x",
]
NO_FORMULAS = ["", "x=1", "-1.5", "+2e-3", "-inf", "-", "--", " -x", "'s", "漢"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_a_quote_that_reading_takes_away(text):
    assert safe_cell(text) == f"'{text}"
    assert plain_name(safe_cell(text)) == text
    assert safe_cell(safe_cell(text)) == safe_cell(text)


@pytest.mark.parametrize("text", NO_FORMULAS)
def test_numbers_and_plain_text_stay(text):
    assert safe_cell(text) == text
    assert plain_name(text) == text


def test_cells_of_text_are_made_safe_and_numbers_are_not_touched():
    table = pandas.DataFrame({"=a": [-1.5, 2.0], "note": ["=1+1", "-2"], "b": [None, "@x"]})
    rows = list(csv.reader(io.StringIO(as_csv(table).decode())))
    assert rows == [["'=a", "note", "b"], ["-1.5", "'=1+1", ""], ["2.0", "-2", "'@x"]]


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("strange") / "model"
    names = {"columns": NAMES[:-1], "context_columns": NAMES[-1:]}
    make(features=5, context_features=1, dtype=torch.float32, **names).save_pretrained(folder)
    return folder


def test_samples_of_a_strangers_model_hold_no_formula_and_are_read_again(run, strange, tmp_path):
    out = tmp_path / "x.csv"
    assert run("sample", strange, "--given", "plain=1", "-n", 3, "--out", out).code == 0
    for cell in next(csv.reader(io.StringIO(out.read_text()))):
        assert cell == "-" or cell[0] not in "=+-@"
    assert open_table(out).columns == NAMES
    assert open_table(out, columns=NAMES[:2]).columns == NAMES[:2]
    evaluated = run("evaluate", strange, "--dataset", out)
    assert evaluated.code == 0, evaluated.err


def test_a_name_with_and_without_the_quote_is_named_twice(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("'-x,-x\n1,2\n")
    with pytest.raises(DataError, match="several columns are called .-x."):
        open_table(path)
