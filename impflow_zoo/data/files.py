"""Local files are looked at before a library opens them: it might unpack what is not expected."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from impflow_zoo.data.csv_files import not_utf8
from impflow_zoo.data.limits import check_unfolded
from impflow_zoo.data.source import DataError

__all__ = ["FORMATS", "check_files"]

FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def check_files(files: Iterable[Path]) -> None:
    """Refuse files that are not what their names say, or unfold to more than the limit.

    Raises:
        DataError: for a device or pipe, a file of an unknown type, an empty file of a table, JSON
            in another encoding than UTF-8, or parquet files that unfold to too much.
    """
    size = unfolded = 0
    for file in files:
        kind = file.suffix.lower()
        if kind not in (*FORMATS, *_IMAGES):
            raise DataError(
                f"{file}: cannot read files of type {kind or '(none)'}, only {', '.join(FORMATS)}"
            )
        if not file.is_file():
            raise DataError(f"{file} is not a regular file")
        if kind in FORMATS and file.stat().st_size == 0:
            raise DataError(f"{file}: the file is empty")
        if kind == ".parquet":
            size, unfolded = size + file.stat().st_size, unfolded + _unfolded(file)
            check_unfolded(size, unfolded, str(file))
        elif kind in (".json", ".jsonl"):
            _check_text(file)


def _unfolded(file: Path) -> int:
    """The bytes that the values of a parquet file take in memory, at least."""
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(file)
    except Exception as error:  # of any kind, for a file that is damaged on purpose
        reason = str(error).partition("\n")[0]
        raise DataError(f"cannot load dataset {str(file)!r}: {reason}") from None
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(max(8 * c.num_values, c.total_uncompressed_size) for c in chunks)


def _check_text(file: Path) -> None:
    try:
        with file.open(encoding="utf-8") as text:
            while some := text.read(1 << 20):
                if "\0" in some:
                    raise not_utf8(file)
    except UnicodeDecodeError:
        raise not_utf8(file) from None
