"""Local files are looked at before a library opens them: it might unpack what is not expected."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from impflow_zoo.data.csv_files import not_utf8
from impflow_zoo.data.limits import check_unfolded
from impflow_zoo.data.parquet_files import unfolded
from impflow_zoo.data.source import DataError

__all__ = [
    "FORMATS",
    "PIXELS",
    "check_images",
    "check_tables",
    "require_images",
    "require_tables",
]

FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
PIXELS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_IMAGES = (*PIXELS, *FORMATS)  # which may hold images, or tell of them


def require_tables(names: Iterable[str]) -> None:
    """Refuse names of files that are no tables, by a `DataError`."""
    for name in names:
        _require_kind(Path(name), FORMATS)


def require_images(names: Iterable[str]) -> None:
    """Refuse names of files that are no images and hold none, such as archives."""
    for name in names:
        _require_kind(Path(name), _IMAGES)


def check_tables(files: Iterable[Path]) -> None:
    """Refuse files that no reader of tables is to open.

    Raises:
        DataError: for a device or pipe, a file of an unknown type, or an empty file.
    """
    for file in files:
        _check(file, FORMATS)


def check_images(files: Iterable[Path]) -> None:
    """Refuse files that are not what their names say, or unfold to more than the limit.

    Raises:
        DataError: as `check_tables`, and for JSON in another encoding than UTF-8, or parquet files
            that unfold to too much.
    """
    size = total = 0
    for file in files:
        _check(file, _IMAGES)
        kind = FORMATS.get(file.suffix.lower())
        if kind == "parquet":
            for packed, values in unfolded(file):
                size, total = size + packed, total + values
                check_unfolded(size, total, str(file))
        elif kind == "json":
            _check_text(file)


def _check(file: Path, kinds: Collection[str]) -> None:
    _require_kind(file, kinds)
    if not file.is_file():
        raise DataError(f"{file} is not a regular file")
    if file.suffix.lower() in FORMATS and file.stat().st_size == 0:
        raise DataError(f"{file}: the file is empty")


def _require_kind(file: Path, kinds: Collection[str]) -> None:
    if (kind := file.suffix.lower()) not in kinds:
        raise DataError(
            f"{file}: cannot read files of type {kind or '(none)'}, only {', '.join(kinds)}"
        )


def _check_text(file: Path) -> None:
    try:
        with file.open(encoding="utf-8") as text:
            while some := text.read(1 << 20):
                if "\0" in some:
                    raise not_utf8(file)
    except UnicodeDecodeError:
        raise not_utf8(file) from None
