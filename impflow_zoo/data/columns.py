"""The columns of a table: those that are numbers, and why the others are not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from impflow_zoo.data.limits import check_table
from impflow_zoo.data.source import DataError

if TYPE_CHECKING:
    import numpy
    import pandas
    from datasets import Dataset

__all__ = ["GROUP", "TOO_LARGE", "Columns", "columns_of", "listed", "numbered"]

GROUP = "group"  # the column that tells which rows belong together

TOO_LARGE = (
    "holds whole numbers above 2^53, which float64 rounds: subtract an offset, or leave it out"
)
_LISTED = 20  # names
_NUMERIC = re.compile(r"u?int\d+|float\d+")
_LABELS = re.compile(r"u?int\d+|(large_)?string")  # whole numbers or text


@dataclass(frozen=True)
class Columns:
    """The columns of a table.

    Arguments:
        names: the names of all columns, in order.
        numbers: those that were asked for and are numbers, float64 with shape `(N,)`; a missing
            value is NaN.
        reasons: what is wrong with the others that were asked for, as "is not numeric".
        groups: the group of each row, int64 with shape `(N,)`; None without a column `group`.
    """

    names: tuple[str, ...]
    numbers: dict[str, numpy.ndarray]
    reasons: dict[str, str]
    groups: numpy.ndarray | None = None


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
    groups = None
    if GROUP in features:
        labels = _LABELS.fullmatch(getattr(features[GROUP], "dtype", "")) is not None
        groups = numbered(table[GROUP].to_pandas(), name, labels=labels)
    return Columns(tuple(features), numbers, reasons, groups)


def numbered(groups: pandas.Series, name: str, *, labels: bool) -> numpy.ndarray:
    """Groups numbered in the order in which they appear.

    Arguments:
        groups: of the rows.
        name: the name of the table, for messages.
        labels: whether they are whole numbers or text.

    Raises:
        DataError: if a row has none, or they are quantities.
    """
    found = f"{name}: column {GROUP!r} tells which rows belong together"
    missing = groups.isna() | (groups == "")
    if missing.any():
        raise DataError(f"{found}, and row {missing.argmax()} has none: fill or rename it")
    if not labels:
        raise DataError(f"{found}, by whole numbers or text: rename it if it is a quantity")
    return groups.factorize()[0]


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
