"""Files of users: refused early, scored row by row, given back with a column more."""

from __future__ import annotations

import csv
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from impflow_zoo.data import DataError, Source
from impflow_zoo.data.csv_files import read_rows
from impflow_zoo.demo.exhibits import Exhibit
from impflow_zoo.scoring import open_rows, score

if TYPE_CHECKING:
    import pandas

__all__ = ["COLUMN", "LARGEST", "ROWS", "Scored", "score_file"]

LARGEST = 100_000_000  # bytes; the server takes no more
ROWS = 1_000_000  # of a file; fewer are taken
COLUMN = "log_prob"


@dataclass(frozen=True)
class Scored:
    """A file that was scored.

    Arguments:
        name: of the file.
        rows: of the file.
        out: the file with a column more.
        head: its first rows.
        text: what was found, in a line.
    """

    name: str
    rows: Source
    out: Path
    head: pandas.DataFrame
    text: str


def score_file(exhibit: Exhibit, path: Path, scratch: Path) -> Scored:
    """Log-densities of the rows of a CSV file.

    Arguments:
        exhibit: the model.
        path: of the file.
        scratch: folder for the result; reading leaves nothing there.

    Raises:
        DataError: if the file is too large, has the new column, or no rows that the model takes.
        ModelError: if values are outside the bounds of the model.
    """
    import pandas

    try:
        _check_size(path)
        source = open_rows(exhibit.model.config, str(path), None)
        if COLUMN in next(read_rows(path)):
            raise DataError(f"{path.name}: there is a column {COLUMN} already: rename it")
        scored = score(exhibit.model, source, seed=0, progress=True)
    except DataError as error:  # users know their file by its name alone
        raise DataError(str(error).replace(str(path), path.name)) from None
    finite = scored.log_prob.isfinite()
    if not finite.any():
        raise DataError(f"{path.name}: no row has a finite log-density, all are too far away")
    out = Path(tempfile.mkdtemp(dir=scratch)) / f"{path.stem}-scored.csv"
    with out.open("w", encoding="utf-8", newline="") as file:
        columns = [COLUMN, *scored.log_prob.tolist()]
        rows = zip(read_rows(path), columns, strict=True)
        csv.writer(file, lineterminator="\n").writerows([*row, value] for row, value in rows)
    lost = int((~finite).sum())
    mean = float(scored.log_prob[finite].mean())
    text = f"{path.name}: {len(source)} rows, mean log-density {mean:.4f} nats"
    text += f"; none in {lost} rows, too far away" if lost else ""
    names, *head = itertools.islice(read_rows(out), 6)
    return Scored(path.name, source, out, pandas.DataFrame(head, columns=names), text)


def _check_size(path: Path) -> None:
    """Refuse a file of too many bytes or lines before it is read."""
    size = path.stat().st_size
    if size > LARGEST:
        raise DataError(f"{path.name}: {size:,} bytes, a file of at most {LARGEST:,} is taken")
    with path.open("rb") as file:
        rows = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) - 1
    if rows >= ROWS:
        raise DataError(f"{path.name}: {rows:,} rows, fewer than {ROWS:,} are taken")
