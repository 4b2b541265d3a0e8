"""Text of strangers is shown by the command line, and never obeyed by the terminal."""

from __future__ import annotations

import io
import re
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pandas
import pytest
import torch
from support.command_line import Run, call
from support.small_models import make
from tqdm import tqdm

from impflow_zoo.models.filenames import CONFIG
from impflow_zoo.models.mistakes import in_one_line
from impflow_zoo.models.texts import in_markdown, printable, printable_output

ESC = "\x1b[2J\x07"  # clears a terminal and rings its bell
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

SHOWN = {
    "colours": ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
    "one byte for two": ("\x9b31m", r"\x9b31m"),
    "over the line": ("good\rbad\x08\x08", r"good\rbad\x08\x08"),
    "from right to left": ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
    "no character": ("caf\udce9", r"caf\udce9"),
    "plain": ("Ä °C\t→ 漢字\n", "Ä °C\t→ 漢字\n"),
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.values(), ids=SHOWN)
def test_controls_are_shown(text, shown):
    assert printable(text) == shown


def test_what_an_encoding_lacks_is_shown_in_ascii(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    with printable_output():
        print("ä 漢 b")
    out.flush()
    assert out.buffer.getvalue() == rb"\xe4 \u6f22 b" + b"\n"


def test_closed_streams_are_no_mistake(monkeypatch):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
    with printable_output():
        print("nobody reads it")
        print("nor this", file=sys.stderr)


def test_text_is_no_markdown():
    shown = in_markdown("[a](b) `c`\n<d> \x1b |e|")
    assert shown == r"\[a\]\(b\) \`c\` \<d\> \\x1b \|e\|"


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of columns that a stranger has named."""
    folder = tmp_path_factory.mktemp("strange") / "model"
    names = {"columns": (f"a{ESC}", "b\nc"), "context_columns": ("\x9b2J",)}
    make(context_features=1, dtype=torch.float32, **names).save_pretrained(folder)
    return folder


def _table(path: Path, *names: str) -> Path:
    """A file of nine rows; no two columns are alike."""
    columns = {name: [3 + row / (2 + i) for row in range(9)] for i, name in enumerate(names)}
    pandas.DataFrame(columns).to_parquet(path)
    return path


def test_names_of_columns_reach_errors_and_reports_as_text(run: Run, strange, tmp_path):
    refused = run("evaluate", strange, "--dataset", _table(tmp_path / "x.parquet", ESC, "b"))
    assert refused.code == 2
    assert r"no column a\x1b[2J\x07" in refused.err
    good = _table(tmp_path / "y.parquet", f"a{ESC}", "b\nc", "\x9b2J")
    report = run("evaluate", strange, "--dataset", good)
    assert report.code == 0, report.err
    assert r"a\x1b[2J\x07: RMSE" in report.out
    assert len(report.out.splitlines()) == 8  # a name is no end of a line
    for text in (refused.out, refused.err, report.out, report.err):
        assert not CONTROLS.search(text.replace("\r", ""))
    assert run("evaluate", strange, "--dataset", good, "--json").json["predictive"]


def test_names_of_files_and_models_reach_errors_as_text(run: Run, tmp_path):
    outcome = run("evaluate", f"no{ESC}")
    assert (outcome.code, CONTROLS.search(outcome.err)) == (2, None)
    folder = tmp_path / f"model{ESC}"
    folder.mkdir()
    (folder / CONFIG).write_text('{"\x1b[2J\x07')
    outcome = run("certify", folder)
    assert (outcome.code, CONTROLS.search(outcome.err)) == (2, None)
    assert r"model\x1b[2J\x07" in outcome.err


@pytest.mark.parametrize("given", [1, None])
def test_names_that_are_no_formulas_are_drawn(given, run: Run, tmp_path):
    pytest.importorskip("matplotlib")
    names = {"columns": (r"$\frac$", "$x_$", "\x1bc")}
    names |= {"context_columns": ("$$",), "context_features": 1} if given else {}
    make(features=3, dtype=torch.float32, **names).save_pretrained(tmp_path / "model")
    data = _table(tmp_path / "x.parquet", *names["columns"], "$$")
    options = ("--dataset", data, "--picture", tmp_path / "x.png")
    outcome = run("evaluate", tmp_path / "model", *options)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "x.png").is_file()


def test_usage_warnings_and_tracebacks_are_text(run: Run):
    usage = run("list", f"--{ESC}").err
    assert "\\x07" in usage  # typer may drop the escape itself
    assert not CONTROLS.search(usage)

    def main() -> None:
        with in_one_line("test"):
            warnings.simplefilter("always")
            warnings.warn(f"odd {ESC}", UserWarning, stacklevel=1)
            tqdm.write(f"bar {ESC}", file=sys.stderr)
            raise RuntimeError(f"raw {ESC}")

    outcome = call(main, "test")
    assert outcome.code == 1
    assert not CONTROLS.search(outcome.err)
    assert outcome.err.startswith("test: odd \\x1b[2J\\x07\nbar \\x1b[2J")
    assert outcome.err.endswith("RuntimeError: raw \\x1b[2J\\x07\n")


def test_bars_are_still_drawn_over_each_other(monkeypatch):
    def drawn(output: AbstractContextManager[None]) -> str:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        with output, tqdm(total=1, desc="outer", bar_format="{desc}", position=0) as bar:
            for _ in tqdm([1], desc=f"in{ESC}\r", bar_format="{desc}", position=1):
                bar.update()
        return sys.stderr.getvalue()

    plain, filtered = drawn(nullcontext()), drawn(printable_output())
    assert filtered == plain.replace(f"in{ESC}\r", r"in\x1b[2J\x07\r")
    assert "\x1b[A" in filtered
