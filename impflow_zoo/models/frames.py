"""Rows of DataFrames and arrays as tensors, and samples as DataFrames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from impflow_zoo.data.columns import in_order
from impflow_zoo.data.frames import has_names, in_memory
from impflow_zoo.data.names import listed
from impflow_zoo.models.fields import ModelError, did_you_mean

if TYPE_CHECKING:
    import pandas

__all__ = ["holds", "rows_of", "sample_frame", "weights_of"]


def rows_of(data: Any, names: Sequence[str], like: Tensor) -> Any:
    """The rows of a DataFrame or an array as a tensor; anything else stays what it is.

    Arguments:
        data: a DataFrame, whose columns are found by name, in any order; or an array.
        names: the columns that are needed; empty if they have no names.
        like: a tensor on the device where the rows are to be; they are float64.

    Raises:
        ModelError: if a column is missing or not numeric.
        DataError: for an array of text, or one of another rank.
    """
    if isinstance(data, Tensor):
        return data
    framed = has_names(data)
    table = in_memory(data) if framed or type(data).__module__ == "numpy" else None
    if table is None:
        return data
    chosen = list(names) if framed and names else in_order(table.names)
    for name in chosen:
        if name not in table.names:
            hint = did_you_mean(name, table.names) or f", only {listed(table.names)}"
            raise ModelError(f"the rows have no column {name!r}{hint}")
        if name in table.reasons:
            raise ModelError(f"column {name!r} {table.reasons[name]}")
    columns = [torch.from_numpy(table.numbers[name].copy()) for name in chosen]
    return torch.stack(columns, dim=1).to(like.device)


def weights_of(weights: Any, rows: Tensor) -> Tensor:
    """The weights of rows in a tensor or an array, float64 with shape `[N]`.

    Arguments:
        weights: one number for each row.
        rows: the rows, `[N, D]`.

    Raises:
        ModelError: if they are not one for each row, or negative, NaN, infinite or all zero.
    """
    if not isinstance(weights, Tensor):
        import numpy

        weights = torch.from_numpy(numpy.array(weights, dtype=float))
    weights = weights.to(rows.device, torch.float64)
    if weights.shape != rows.shape[:1]:
        shape = tuple(weights.shape)
        raise ModelError(f"weights of shape {shape}: [{len(rows)}] is needed, one for each row")
    if not ((weights >= 0) & weights.isfinite()).all() or not weights.any():
        raise ModelError("weights: finite numbers of at least 0, not all of them zero, are needed")
    return weights


def holds(data: Any, names: Sequence[str]) -> bool:
    """Whether a DataFrame has columns of all these names."""
    return bool(names) and has_names(data) and {*names} <= {*map(str, data.columns)}


def sample_frame(
    samples: Tensor, columns: Sequence[str], context: Tensor | None, given: Sequence[str]
) -> pandas.DataFrame:
    """Samples as a DataFrame, each beside its context.

    Arguments:
        samples: `[n, D]`, or `[C, n, D]` for contexts `[C, K]`.
        columns, given: names of the columns, and of those of the context.
    """
    import pandas

    rows = samples if context is None else samples.flatten(0, 1)
    frame = pandas.DataFrame(rows.numpy(force=True), columns=list(columns))
    if context is not None:
        names = list(given) or [f"c{i}" for i in range(context.shape[1])]
        frame[names] = context.repeat_interleave(samples.shape[1], dim=0).numpy(force=True)
    return frame
