"""Data: tables and images through `datasets`, two-dimensional toys."""

from impflow_zoo.data.images import ImageSource, ImageStream
from impflow_zoo.data.opening import is_toy, open_source
from impflow_zoo.data.pixels import ImageFormat
from impflow_zoo.data.source import (
    Batch,
    DataError,
    LeftOutWarning,
    Source,
    TableSource,
    UnknownSplitError,
    checksum,
    fingerprint,
)
from impflow_zoo.data.tables import open_table
from impflow_zoo.data.toys import TOYS, open_toy

__all__ = [
    "TOYS",
    "Batch",
    "DataError",
    "ImageFormat",
    "ImageSource",
    "ImageStream",
    "LeftOutWarning",
    "Source",
    "TableSource",
    "UnknownSplitError",
    "checksum",
    "fingerprint",
    "is_toy",
    "open_source",
    "open_table",
    "open_toy",
]
