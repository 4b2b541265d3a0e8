"""Samples of a conditional model on the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pandas
import pytest
import torch
from support.small_models import make, rows

from impflow_zoo import ImpFlow, TabularConfig, create_model

NAMES = {"columns": ("a",), "context_columns": ("t", "p")}


@pytest.fixture(scope="module")
def conditional(tmp_path_factory) -> Path:
    """A model of one column given two."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("zoo") / "conditional"
    model = ImpFlow(TabularConfig(1, blocks=1, hidden_features=(8,), actnorm=False, **NAMES)).eval()
    contexts = torch.tensor([20.0, 1010.0]) + torch.tensor([7.0, 6.0]) * torch.randn(50, 2)
    model.fit_preprocessing(rows(50, 1), contexts)
    model.save_pretrained(folder)
    return folder


def drawn(run, folder: Path, given: str, out: Path) -> pandas.DataFrame:
    run("sample", str(folder), "-n", "3", "--given", given, "--out", str(out))
    return pandas.read_csv(out)


def test_a_context_is_given_by_name(run, conditional, tmp_path):
    table = drawn(run, conditional, "p=1000,t=12.5", tmp_path / "out.csv")
    assert list(table) == ["a", "t", "p"]
    assert table[["t", "p"]].to_numpy().tolist() == [[12.5, 1000.0]] * 3
    model, context = create_model(conditional), torch.tensor([[12.5, 1000.0]])
    expected = model.sample(3, context, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.tensor(table["a"]).float(), expected[0, :, 0])


def test_many_digits_are_no_name_of_a_file(run, conditional, tmp_path):
    given = f"t=12.5{'0' * 300},p=1000"
    assert drawn(run, conditional, given, tmp_path / "out.csv")["t"].tolist() == [12.5] * 3


def test_a_picture_of_rows_with_one_context(run, conditional, tmp_path):
    path, picture = tmp_path / "rows.csv", tmp_path / "p.png"
    path.write_text("a,t,p\n" + "".join(f"{i},20,1010\n" for i in range(5)))
    run("evaluate", str(conditional), "--dataset", str(path), "--picture", str(picture))
    assert picture.stat().st_size > 1000


def test_a_file_gives_one_context_a_row(run, conditional, tmp_path):
    frame = pandas.DataFrame({"p": [1000, 1020], "note": ["x", "y"], "t": [1.5, 2.5]})
    frame.to_csv(tmp_path / "in.csv", index=False)
    frame.to_parquet(tmp_path / "in.parquet")
    tables = [
        drawn(run, conditional, str(tmp_path / name), tmp_path / "out.csv")
        for name in ("in.csv", "in.parquet")
    ]
    assert tables[0].equals(tables[1])
    assert tables[0]["t"].tolist() == [1.5] * 3 + [2.5] * 3
    assert tables[0]["p"].tolist() == [1000.0] * 3 + [1020.0] * 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "conditional: add --given t=.*,p=.*FILE"),
        ("t=1", "--given: p missing"),
        ("t=1,p=2,q=3", "'q' is not a context column; .*t, p"),
        ("t=1,pp=2", "'pp' is not a context column; .*'p'"),
        ("t=1,t=2", "--given: t is given twice"),
        ("t=1,p=warm", "--given: p='warm' is not a number"),
        ("t=1,p=", "--given: p='' is not a number"),
        ("t=1,p=nan", "--given: p=nan is not finite"),
        ("absent.csv", "cannot load dataset 'absent.csv'|no such file"),
        ("text.csv", "column 't' is not numeric"),
        ("short.csv", "no column p, only t"),
        ("gap.csv", "row 1, column 'p' is nan"),
    ],
)
def test_mistakes_end_in_one_line(run, conditional, tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    Path("text.csv").write_text("t,p\nwarm,1\n")
    Path("short.csv").write_text("t\n1\n")
    Path("gap.csv").write_text("t,p\n1,2\n1,\n")
    option = () if given is None else ("--given", given)
    outcome = run("sample", str(conditional), "--out", "out.csv", *option)
    assert outcome.code == 2
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("impflow-zoo: ")
    assert re.search(message, last)


def test_a_name_with_a_comma_stands_in_quotes(run, tmp_path):
    names = {"columns": ("a",), "context_columns": ("Cement, dry", "Water")}
    config = TabularConfig(1, blocks=1, hidden_features=(8,), actnorm=False, **names)
    ImpFlow(config).eval().save_pretrained(tmp_path / "model")
    table = drawn(run, tmp_path / "model", 'Water=2, "Cement, dry"=1.5', tmp_path / "out.csv")
    assert table[["Cement, dry", "Water"]].to_numpy().tolist() == [[1.5, 2.0]] * 3
    said = run("sample", tmp_path / "model", "--out", tmp_path / "out.csv").err
    assert """add --given '"Cement, dry"=...,Water=...', or""" in said


def test_a_name_may_begin_with_a_space_and_have_an_equals_sign(run, tmp_path):
    """As in a CSV file with a space behind each comma."""
    names = {"columns": ("a",), "context_columns": (" Water", "p=1")}
    config = TabularConfig(1, blocks=1, hidden_features=(8,), actnorm=False, **names)
    ImpFlow(config).eval().save_pretrained(tmp_path / "model")
    table = drawn(run, tmp_path / "model", '" Water"=2, p=1 = 1.5', tmp_path / "out.csv")
    assert table[[" Water", "p=1"]].to_numpy().tolist() == [[2.0, 1.5]] * 3
    words = ("sample", tmp_path / "model", "--out", tmp_path / "out.csv")
    said = run(*words, "--given", "Water=2").err
    assert """did you mean '" Water"'?""" in said


def test_an_unconditional_model_takes_none(run, tmp_path):
    make(dtype=torch.float32).save_pretrained(tmp_path)
    outcome = run("sample", tmp_path, "--given", "t=1", "--out", tmp_path / "o.csv")
    assert outcome.code == 2
    assert "unconditional: leave --given out" in outcome.err
