"""The columns of a table: those that are numbers, and why the others are not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from impflow_zoo.data.limits import check_table

if TYPE_CHECKING:
    import numpy
    from datasets import Dataset

__all__ = ["TOO_LARGE", "Columns", "columns_of", "listed"]

TOO_LARGE = (
    "holds whole numbers above 2^53, which float64 rounds: subtract an offset, or leave it out"
)
_LISTED = 20  # names
_NUMERIC = re.compile(r"u?int\d+|float\d+")


@dataclass(frozen=True)
class Columns:
    """The columns of a table.

    Arguments:
        names: the names of all columns, in order.
        numbers: those that were asked for and are numbers, float64 with shape `(N,)`; a missing
            value is NaN.
        reasons: what is wrong with the others that were asked for, as "is not numeric".
    """

    names: tuple[str, ...]
    numbers: dict[str, numpy.ndarray]
    reasons: dict[str, str]


def columns_of(data: Dataset, name: str, wanted: Sequence[str] | None) -> Columns:
    """The columns of a set that `datasets` has opened.

    Arguments:
        data: the set.
        name: its name, for messages.
        wanted: the columns asked for; None asks for all. Names that it does not have are passed
            over.

    Raises:
        DataError: if the table is larger than the limits.
    """
    import pyarrow

    features = dict(data.features)
    asked = [column for column in (features if wanted is None else wanted) if column in features]
    plain = [column for column in asked if _is_numeric(features[column])]
    check_table(len(data), len(plain), name)
    table = data.with_format("arrow")[:]
    reasons = {c: _reason(data, c, features[c]) for c in asked if c not in plain}
    numbers = {}
    for column in plain:
        try:
            numbers[column] = table[column].cast(pyarrow.float64()).to_numpy()
        except pyarrow.ArrowInvalid:  # a cast of whole numbers is exact or fails
            reasons[column] = TOO_LARGE
    return Columns(tuple(features), numbers, reasons)


def listed(names: Collection[str]) -> str:
    """Names in a line; of many, the first ones and how many more there are."""
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(itertools.islice(names, _LISTED)) + more


def _is_numeric(feature: object) -> bool:
    plain = type(feature).__name__ == "Value"  # class labels have a type of numbers, too
    return plain and _NUMERIC.fullmatch(getattr(feature, "dtype", "")) is not None


def _reason(data: Dataset, column: str, feature: object) -> str:
    """Where the first value stands that is no number, or of which type the column is."""
    for row, value in enumerate(data[column]):
        try:
            float(value)
        except (TypeError, ValueError):
            return f"is not numeric, row {row} holds {str(value)[:40]!r}"
    return f"is not numeric, it is {str(feature)[:40]}"
