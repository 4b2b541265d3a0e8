"""Write the rows of a published density benchmark as a folder that recipes train on.

    python examples/prepare.py power FILES FOLDER
    python examples/prepare.py kin8nm FILES FOLDER
    python examples/prepare.py bsds300 PHOTOGRAPHS FOLDER [--mirrored]

FILES is where the published files lie: see `papamakarios.py` and `uci_tables.py` for their names.
PHOTOGRAPHS is a set of images that `datasets` opens, with the splits train and test. FOLDER gets
`train.parquet`, `validation.parquet` and `test.parquet`. Rows of `bsds300` have a group, their
photograph. With `--mirrored` its training rows are three times as many: each patch and two mirror
images of it. This takes 3 GB of memory.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import papamakarios
import patches
import pyarrow
import pyarrow.parquet
import typer
import uci_tables
from torch import Tensor

from impflow_zoo.data import DataError
from impflow_zoo.data.tables import GROUP
from impflow_zoo.models.mistakes import in_one_line

Name = StrEnum("Name", ["bsds300", *papamakarios.READERS, *uci_tables.TABLES])


def main(
    name: Annotated[Name, typer.Argument(help="Which benchmark.")],
    source: Annotated[str, typer.Argument(help="Its published files, or photographs.")],
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    limit: Annotated[int | None, typer.Option(help="Fewer rows of each split.")] = None,
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="Add mirror images of the patches to train on.")
    ] = False,
) -> None:
    """Write the rows of a published density benchmark as a folder that recipes train on."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == Name.bsds300:
        for split, size in patches.SIZES.items():
            rows, groups = patches.read(source, split, limit or size)
            if mirrored and split == "train":
                rows, groups = patches.mirrored(rows), groups.repeat(3)
            write(folder, split, rows, groups)
        return
    if mirrored:
        raise DataError(f"{name} has no patches to mirror: leave --mirrored out")
    files, names = Path(source).expanduser(), None
    if table := uci_tables.TABLES.get(name):
        splits, names = uci_tables.read(files, table), list(table.columns.values())
    else:
        splits = papamakarios.READERS[name](files)
    for split, values in zip(patches.SIZES, splits, strict=True):
        write(folder, split, values[:limit], names=names)


def write(
    folder: Path,
    split: str,
    rows: Tensor,
    groups: Tensor | None = None,
    names: list[str] | None = None,
) -> None:
    """Write the rows of a split, with columns `x0`, `x1`, ..., and the group of each row."""
    names = names or [f"x{i}" for i in range(rows.shape[1])]
    columns = {name: column.numpy() for name, column in zip(names, rows.T, strict=True)}
    in_groups = ""
    if groups is not None:
        columns[GROUP] = groups.numpy()
        in_groups = f" in {len(groups.unique())} groups"
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{split}.parquet")
    print(f"{len(rows):,} rows{in_groups} of {rows.shape[1]} columns in {folder / split}.parquet")


if __name__ == "__main__":
    with in_one_line():
        typer.run(main)
