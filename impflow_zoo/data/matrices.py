"""Numbers from a file in one of the forms data sets are passed around in; never from a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from impflow_zoo.data.loading import one_line
from impflow_zoo.data.source import DataError

if TYPE_CHECKING:
    import pandas

__all__ = ["find_file", "read_frame", "read_text"]

_PICKLES = {".pickle", ".pkl", ".p"}


def find_file(path: str, names: tuple[str, ...]) -> Path:
    """The file itself, or the first of the named files in a folder.

    Raises:
        DataError: where there is none, saying what was looked for.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        for name in names:
            if (place / name).is_file():
                return place / name
        pickles = sorted(file for file in place.iterdir() if file.suffix in _PICKLES)
        if pickles:
            _refuse_pickle(pickles[0])
        raise DataError(f"{path}: the folder holds none of {', '.join(names)}")
    if not place.is_file():
        raise DataError(f"no such file or folder: {path}")
    return place


def read_frame(file: Path, *, rows: int | None = None) -> pandas.DataFrame:
    """A `.npy`, `.csv` or `.parquet` file; of a long CSV file the first rows.

    Raises:
        DataError: for any other file, or one that cannot be read.
    """
    import numpy
    import pandas

    if file.suffix in _PICKLES:
        _refuse_pickle(file)
    try:
        if file.suffix == ".npy":
            # A pickle may hide in this format too.
            return pandas.DataFrame(numpy.atleast_2d(numpy.load(file, allow_pickle=False)))
        if file.suffix == ".parquet":
            return pandas.read_parquet(file)
        if file.name.endswith((".csv", ".csv.gz")):
            return pandas.read_csv(file, index_col=False, nrows=rows)
    except Exception as error:  # of numpy, pandas or pyarrow
        raise DataError(f"cannot read {file}: {one_line(error)}") from error
    raise DataError(f"{file}: files of type {file.suffix or '(none)'} are not read here")


def read_text(
    file: Path, *, separator: str = r"\s+", header: bool = False, rows: int | None = None
) -> pandas.DataFrame:
    """A plain text table as UCI hands it out, past its first line; `?` is a missing value.

    Raises:
        DataError: for a file that cannot be read.
    """
    import pandas

    try:
        return pandas.read_csv(
            file,
            sep=separator,
            header=0 if header else None,
            skiprows=0 if header else 1,
            nrows=rows,
            na_values="?",
            low_memory=False,
        )
    except Exception as error:  # of pandas
        raise DataError(f"cannot read {file}: {one_line(error)}") from error


def _refuse_pickle(file: Path) -> None:
    raise DataError(
        f"{file} is a pickle, which can run any code and is never opened here: convert it once, "
        f"where you trust it, with pandas.read_pickle({file.name!r}).to_parquet(...)"
    )
