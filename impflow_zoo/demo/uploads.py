"""Files of users: refused early, scored row by row, given back with a column more."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from impflow_zoo.data import DataError, Source
from impflow_zoo.demo.exhibits import CACHE, READING, Exhibit
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
        with READING:
            source = open_rows(exhibit.model.config, str(path), None)
            shutil.rmtree(scratch / CACHE / "csv", ignore_errors=True)
        table = pandas.read_csv(path, dtype=str, keep_default_na=False)
        if COLUMN in table:
            raise DataError(f"{path.name}: there is a column {COLUMN} already: rename it")
        scored = score(exhibit.model, source, seed=0, progress=True)
    except DataError as error:  # users know their file by its name alone
        raise DataError(str(error).replace(str(path), path.name)) from None
    finite = scored.log_prob.isfinite()
    if not finite.any():
        raise DataError(f"{path.name}: no row has a finite log-density, all are too far away")
    table[COLUMN] = scored.log_prob.tolist()
    out = Path(tempfile.mkdtemp(dir=scratch)) / f"{path.stem}-scored.csv"
    table.to_csv(out, index=False)
    lost = int((~finite).sum())
    mean = float(scored.log_prob[finite].mean())
    text = f"{path.name}: {len(table)} rows, mean log-density {mean:.4f} nats"
    text += f"; none in {lost} rows, too far away" if lost else ""
    return Scored(path.name, source, out, table.head(), text)


def _check_size(path: Path) -> None:
    """Refuse a file of too many bytes or lines before it is read."""
    size = path.stat().st_size
    if size > LARGEST:
        raise DataError(f"{path.name}: {size:,} bytes, a file of at most {LARGEST:,} is taken")
    with path.open("rb") as file:
        rows = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) - 1
    if rows >= ROWS:
        raise DataError(f"{path.name}: {rows:,} rows, fewer than {ROWS:,} are taken")
