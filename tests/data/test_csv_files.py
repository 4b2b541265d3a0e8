"""CSV files: a table as Python's own `csv` and `float` read it, or one line that says why not."""

from __future__ import annotations

import csv
import io
import math
import random
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hostile import FEW

from impflow_zoo.data import DataError, LeftOutWarning, limits, open_table
from impflow_zoo.fitting.reading import read_table

MANY = settings(FEW, max_examples=20_000)


def file(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ------------------------------------------------------------------------------- any file at all


def is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell)) and "_" not in cell
    except ValueError:
        return False


def is_rounded(cell: str) -> bool:
    return cell.strip().lstrip("+-").isdigit() and abs(int(cell)) > 2**53


def is_read_right(path: Path, text: str) -> bool:
    """Whether a file is a table; then each of its columns is used, or is named in a warning."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            table = open_table(path)
        except DataError as error:
            refusal = str(error)
        else:
            refusal = ""
    if refusal:
        assert refusal.isprintable()
        assert len(refusal) < 1000
        return False
    said = str(seen[0].message) if seen else ""
    lines = io.StringIO(text.removeprefix("\ufeff"), newline="")
    header, *rows = filter(None, csv.reader(lines))
    assert {len(row) for row in rows} == {len(header)}
    used = dict(zip(table.columns, table.rows(range(len(table))).T.tolist(), strict=True))
    for i, name in enumerate(header):
        cells = [row[i] for row in rows]
        if name in used:
            assert used.pop(name) == [float(cell) for cell in cells]
        else:
            text = not all(map(is_number, cells)) or any(map(is_rounded, cells))
            assert name == "" or name.startswith("Unnamed: ") or (text and repr(name) in said)
    assert not used
    return True


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(["1", "0", "+1", " 2 ", ".5", "3.", "1e3", "1_0", "-0"]),
)
ODD = st.sampled_from(
    [
        "",
        "NA",
        "nan",
        "inf",
        "x",
        "1,5",
        "1;5",
        '"',
        '""',
        "a\nb",
        "9007199254740993",
        "0x1",
        "\x1b[",
    ]
)
MARKS = st.text('0123456789.,"\n\r eE+-_abnif;\t\0\ufeff\x85é', max_size=4)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Small tables, most of them with a mistake."""
    width = draw(st.integers(1, 4))
    names = st.lists(st.sampled_from(["a", "b", "c", "d e", "", "1", "x;y"]) | MARKS, unique=True)
    header = draw(st.just(list("abcd")) | names)[:width]
    plain = draw(st.booleans())
    rows = draw(
        st.lists(
            st.lists(NUMBERS if plain else NUMBERS | ODD, min_size=len(header), max_size=width),
            max_size=4,
        )
    )
    made = io.StringIO(newline="")
    csv.writer(made, lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"]))).writerows(
        [header, *rows]
    )
    text = made.getvalue()
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(MARKS) + text[place + draw(st.integers(0, 2)) :]
    return text


ANY = st.one_of(texts(), texts(), st.text(max_size=30), MARKS.map(lambda m: f"a,b\n1,{m}\n"))


@given(text=ANY)
@FEW
def test_a_text_is_read_as_it_stands_or_refused(tmp_path, text):
    is_read_right(file(tmp_path, text), text)


@pytest.mark.slow
@given(text=ANY)
@MANY
def test_many_texts(tmp_path, text):
    is_read_right(file(tmp_path, text), text)


@given(content=st.binary(max_size=60))
@FEW
def test_bytes_are_no_table(tmp_path, content):
    try:
        text = content.decode()
    except UnicodeDecodeError:
        with pytest.raises(DataError):
            open_table(file(tmp_path, content))
    else:
        is_read_right(file(tmp_path, content), text)


def test_a_cell_with_an_underscore_is_a_code_and_no_number(tmp_path):
    path = file(tmp_path, "id,b\n12_3,2\n4_56,3\n")
    with pytest.warns(LeftOutWarning, match="'id' is not numeric, row 0 .*'12_3'"):
        assert open_table(path).columns == ("b",)


def test_numbers_of_every_length_are_read_to_the_last_bit(tmp_path):
    """And no other file is needed to see that the comparison above does compare."""
    draw = random.Random(0)
    cells = [repr(draw.uniform(-1, 1) * 10.0 ** draw.randint(-300, 300)) for _ in range(3000)]
    text = "a,b,c\n" + "".join(f"{','.join(cells[i : i + 3])}\n" for i in range(0, 3000, 3))
    assert is_read_right(file(tmp_path, text), text)


# -------------------------------------------------------------------------------- known mistakes

REFUSED = {
    "a field more": (
        "a,b\n1,2,3\n",
        r"row 0 \(line 2\) has 3 fields, .*2: put quotes",
    ),
    "a field more, later": ("a,b\n1,2\n\n3,4,5\n", r"row 1 \(line 4\) has 3 fields"),
    "a field less": ("a,b\n1,2\n3\n", r"row 1 \(line 3\) has 1 fields"),
    "decimal commas": ("a,b\n1,5,2,5\n", r"write 1\.5 for 1,5"),
    "semicolons": ("a;b\n1,5;2,5\n", r"separated by ';': .*commas"),
    "a name twice": ("a,b,a\n1,2,3\n", "several columns are called 'a': rename them"),
    "no header": ("1.5,1.5,2.5\n3,4,5\n", "lack its header"),
    "Latin-1": ("größe,b\n1,2\n".encode("latin-1"), "save it as UTF-8"),
    "Latin-1, later": (b"a,b\n" + 9999 * b"1,2\n" + b"1,\xe42\n", "save it as UTF-8"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "save it as UTF-8"),
    "UTF-16 without its mark": ("a,b\n1,2\n".encode("utf-16-le"), "save it as UTF-8"),
    "an open quote": ('a,b\n1,"2\n', "line 2: .*check the quotes"),
    "a quote within a cell": ('a,b\n1,"2"3\n', "check the quotes"),
    "a long cell": ("a,b\n1," + "2" * 200_000, "field larger than field limit"),
    "a long line": ("a\n" + " " * 20_000_000, "a line is longer than 10,000,000 characters"),
    "columns without end": ("," * 200_000, "200,001 columns, at most 100,000"),
    "codes for terminals": ("\x1b[2Ja,b\n1,2\n", "is not UTF-8 text"),
    "line breaks in names": ('"a\nb",c\n1,2\n', r"no column d, only a\\nb, c"),
    "whole numbers": ("d\n1\n9007199254740993\n", r"'d' holds whole numbers above 2\^53"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_named(content, message, tmp_path):
    columns = ["d"] if message.startswith(("no column", "'d'")) else None
    with pytest.raises(DataError, match=message) as refused:
        open_table(file(tmp_path, content), columns=columns)
    assert str(refused.value).isprintable()


def test_a_column_may_have_a_semicolon_in_its_name(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text('"price; USD",b\n' + "".join(f"{i % 7}.5,{i * i % 11}.25\n" for i in range(40)))
    assert read_table(path).first.names == ("price; USD", "b")


def test_files_of_one_split_have_one_header(tmp_path):
    file(tmp_path, "a,b\n1,2\n", "train-0.csv")
    assert len(open_table(file(tmp_path, "a,b\n3,4\n", "train-1.csv").parent)) == 2
    file(tmp_path, "b,a\n1,2\n", "train-1.csv")
    with pytest.raises(DataError, match="train-1.csv: its columns are b, a, .*train-0.csv"):
        open_table(tmp_path)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("\ufeffa,b\n1,2\n", [[1, 2]]),  # with a byte order mark
        ('a,"b, c"\r\n" 1",+2\r\n\r\n3e2,"4"', [[1, 2], [300, 4]]),
        ("a,größe\n1,2\n", [[1, 2]]),
        ("a\n9007199254740992\n1e30\n", [[2.0**53], [1e30]]),
        ("0,1\n2,3\n", [[2, 3]]),  # the header that pandas writes for columns without names
    ],
)
def test_what_others_write_is_read(text, rows, tmp_path):
    table = open_table(file(tmp_path, text))
    assert table.rows(range(len(table))).tolist() == rows


@pytest.mark.parametrize(("last", "reason"), [("x", "row 19999 holds 'x'"), ("2" * 17, "2^53")])
def test_a_column_that_one_cell_spoils_is_named(last, reason, tmp_path):
    path = file(tmp_path, "a,b,c\n" + "1,2,3\n" * 19_999 + f"4,{last},6\n")
    with pytest.warns(LeftOutWarning, match="columns that are not used: 'b' ") as seen:
        table = open_table(path)
    assert reason in str(seen[0].message)
    assert "name the columns to use in config.columns" in str(seen[0].message)
    assert table.columns == ("a", "c")
    assert len(open_table(path, columns=["a", "c"])) == 20_000  # as asked, without a warning
    with pytest.raises(DataError, match=r"\[2\], .*takes \[3\]; not used: 'b' "):
        open_table(path, features=3)


@pytest.mark.parametrize("cell", ["", "NA", " ", "null", "nan"])
def test_a_missing_value_does_not_make_a_column_text(cell, tmp_path):
    with pytest.raises(DataError, match="row 1, column 'b' is nan"):
        open_table(file(tmp_path, f"a,b\n1,2\n3,{cell}\n"))


def test_thousands_of_columns_are_read_in_a_moment(tmp_path):
    names = [f"c{i}" for i in range(8000)]
    path = file(tmp_path, ",".join(names) + "\n" + ",".join(["1.5"] * 8000) + "\n")
    start = time.process_time()
    assert open_table(path).columns == tuple(names)
    assert open_table(path, columns=names[::-1]).columns[0] == names[-1]
    assert time.process_time() - start < 2


def test_a_table_above_the_limit_is_refused_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "TABLE_BYTES", 160)
    assert len(open_table(file(tmp_path, "a,b\n" + "1,2\n" * 10))) == 10
    with pytest.raises(DataError, match=r"11 rows of 2 .* 160 bytes: .*TABLE_BYTES"):
        open_table(file(tmp_path, "a,b\n" + "1,2\n" * 11))
