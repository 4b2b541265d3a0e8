"""How much a data file may unfold to. A file of a few megabytes may hold gigabytes.

Set a limit before the data are opened:

    from impflow_zoo.data import limits
    limits.TABLE_BYTES = 8_000_000_000

Images have the limit of Pillow, `PIL.Image.MAX_IMAGE_PIXELS`.
"""

from __future__ import annotations

from impflow_zoo.data.source import DataError

__all__ = ["TABLE_BYTES", "TABLE_COLUMNS", "check_table", "check_unfolded"]

#: Most bytes of a table in memory (2 GB), 8 for each number.
TABLE_BYTES = 2_000_000_000
#: Most columns of a table (100,000).
TABLE_COLUMNS = 100_000
_PACKED = 10  # times that parquet packs data that nobody has made for it, at most


def check_table(rows: int, columns: int, name: str) -> None:
    """Refuse a table before its numbers are in memory.

    Arguments:
        rows, columns: its size.
        name: its name, for messages.

    Raises:
        DataError: if it is above a limit.
    """
    if columns > TABLE_COLUMNS:
        raise DataError(
            f"{name}: {columns:,} columns, at most {TABLE_COLUMNS:,} are read "
            "(impflow_zoo.data.limits.TABLE_COLUMNS)"
        )
    if 8 * rows * columns > TABLE_BYTES:
        raise DataError(
            f"{name}: {rows:,} rows of {columns:,} numbers take more than {TABLE_BYTES:,} bytes: "
            "take fewer of them, or raise impflow_zoo.data.limits.TABLE_BYTES"
        )


def check_unfolded(size: int, unfolded: int, name: str) -> None:
    """Refuse packed files that unfold to more than a table may take, before they do.

    Files that pack little are left to `check_table`: they may hold images.

    Arguments:
        size, unfolded: bytes of the files, and of their values in memory.
        name: name of the last file, for messages.

    Raises:
        DataError: if the values take too much.
    """
    if unfolded > max(TABLE_BYTES, _PACKED * size):
        raise DataError(
            f"{name}: {size:,} bytes unfold to {unfolded:,}, at most {TABLE_BYTES:,} are read "
            "(impflow_zoo.data.limits.TABLE_BYTES)"
        )
