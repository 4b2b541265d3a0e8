"""Tables in memory: DataFrames, sets of the library `datasets`, arrays and tensors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from impflow_zoo.data.columns import EXACT, GROUP, TOO_LARGE, Columns, numbered
from impflow_zoo.data.limits import check_table
from impflow_zoo.data.names import listed
from impflow_zoo.data.source import DataError

__all__ = ["IN_MEMORY", "as_frame", "has_names", "in_memory", "is_set"]

IN_MEMORY = "the data"  # what messages call a table in memory


def has_names(data: Any) -> bool:
    """Whether it is a DataFrame, whose columns have names."""
    pandas = sys.modules.get("pandas")  # who has a DataFrame has imported it
    return pandas is not None and isinstance(data, pandas.DataFrame)


def is_set(data: Any) -> bool:
    """Whether it is a `datasets.Dataset`: one split of a set, of rows or images."""
    datasets = sys.modules.get("datasets")  # who has a set has imported it
    return datasets is not None and isinstance(data, datasets.Dataset)


def as_frame(data: Any) -> Any:
    """A `datasets.Dataset` as a DataFrame; anything else stays what it is.

    Class labels become categories: their numbers are none to model.

    Raises:
        DataError: for a table above the limits.
    """
    if not is_set(data):
        return data
    check_table(len(data), len(data.column_names), IN_MEMORY)
    from datasets import ClassLabel

    labels = [name for name, kind in data.features.items() if isinstance(kind, ClassLabel)]
    return data.with_format(None).to_pandas().astype(dict.fromkeys(labels, "category"))


def in_memory(data: Any, names: Sequence[str] = ()) -> Columns | None:
    """The columns of a DataFrame, an array or a tensor; None for anything else.

    Arguments:
        data: the table.
        names: of the columns of an array, if it has as many; else they are x0, x1, ...

    Raises:
        DataError: for an array of another shape or no numbers, a name that stands twice, or a
            table above the limits.
    """
    if has_names(data):
        return _of_frame(data)
    if isinstance(data, Tensor):
        numbers = data.double() if data.is_floating_point() else data  # NumPy has no bfloat16
        data = numbers.detach().cpu().numpy()
    import numpy

    if not isinstance(data, numpy.ndarray):
        return None
    if data.ndim != 2 or data.dtype.kind not in "iuf":
        raise DataError(
            f"an array of shape {list(data.shape)} and type {data.dtype}: numbers with shape "
            "[rows, columns] are needed"
        )
    check_table(len(data), data.shape[1], IN_MEMORY)
    if names and len(names) != data.shape[1]:
        raise DataError(
            f"an array of {data.shape[1]} columns: {len(names)} are needed, {listed(names)}"
        )
    names = tuple(names) or tuple(f"x{i}" for i in range(data.shape[1]))
    values = numpy.ma.filled(data.astype(float), numpy.nan)  # what is masked is missing
    large = [data.dtype.kind != "f" and _is_rounded(data[:, i]) for i in range(data.shape[1])]
    return Columns(
        names,
        {n: values[:, i].copy() for i, n in enumerate(names) if not large[i]},
        {n: TOO_LARGE for i, n in enumerate(names) if large[i]},
    )


def _is_rounded(numbers: Any) -> bool:
    """Whether float64 cannot hold some of whole numbers."""
    return bool(((numbers > EXACT) | (numbers < -EXACT)).any())


def _of_frame(frame: Any) -> Columns:
    import numpy

    names = tuple(map(str, frame.columns))
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"several columns are called {twice[0]!r}: rename them")
    check_table(len(frame), len(names), IN_MEMORY)
    numbers: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for i, name in enumerate(names):
        column = frame.iloc[:, i]
        kind = getattr(column.dtype, "kind", "O")
        if kind == "M":
            reasons[name] = "holds dates"
        elif kind not in "iuf":
            reasons[name] = f"is not numeric, it is {str(column.dtype)[:40]}"
        else:
            values = column.to_numpy(dtype=float, na_value=numpy.nan)
            if kind != "f" and _is_rounded(column):
                reasons[name] = TOO_LARGE
            else:
                numbers[name] = values
    groups = None
    if GROUP in names:
        column = frame.iloc[:, names.index(GROUP)]
        groups = numbered(column, IN_MEMORY, labels=getattr(column.dtype, "kind", "O") != "f")
    return Columns(names, numbers, reasons, groups)
