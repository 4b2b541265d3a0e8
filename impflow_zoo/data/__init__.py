"""Data: tables through `datasets`, two-dimensional toys, density benchmarks."""

from impflow_zoo.data.images import ImageFormat, ImageSource, open_images
from impflow_zoo.data.opening import open_source
from impflow_zoo.data.source import DataError, Source, Subset, TableSource
from impflow_zoo.data.tables import open_table
from impflow_zoo.data.toys import TOYS, open_toy

__all__ = [
    "TOYS",
    "DataError",
    "ImageFormat",
    "ImageSource",
    "Source",
    "Subset",
    "TableSource",
    "open_images",
    "open_source",
    "open_table",
    "open_toy",
]
