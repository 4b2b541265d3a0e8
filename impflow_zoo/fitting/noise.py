"""Rows as models take them: with the noise of their rounding, and within the bounds of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from impflow_zoo.fitting.columns import Findings
from impflow_zoo.models.config import parse
from impflow_zoo.models.preprocessing import TablePreprocessing, preprocessing_of

if TYPE_CHECKING:
    import numpy

__all__ = ["check_bounds", "noisy"]


def noisy(findings: Findings, raw: Tensor, noise: Tensor) -> Tensor:
    """Rows with the noise of one rounding step; angles stay as they are.

    Arguments:
        findings: the columns.
        raw: rows, contexts included, `[N, D]`.
        noise: uniform numbers in [0, 1) of their shape.
    """
    return _preprocessing(findings).dequantise(raw, noise)


def check_bounds(findings: Findings, values: numpy.ndarray, whole: numpy.ndarray) -> None:
    """Refuse rows that lie outside of bounds, or on them in float32, in which models compute.

    Arguments:
        findings: the columns, with bounds that the user states.
        values: all rows of a table, contexts included, `[N, D]`.
        whole: which of them are used, `[N]`.

    Raises:
        ModelError: naming the column, the first row and its value.
        ConfigError: if the bounds are none.
    """
    import numpy

    if "bounds" not in findings.stated:
        return
    rows = numpy.where(whole[:, None], values, numpy.nan)  # which keep their numbers
    _preprocessing(findings).check(torch.from_numpy(rows).float(), raw=True)


def _preprocessing(findings: Findings) -> TablePreprocessing:
    """That of all models of these columns, but for angles."""
    columns = {key: value for key, value in findings.config().items() if key != "periodic"}
    found = preprocessing_of(parse({"kind": "linear-gaussian", **columns}))
    assert isinstance(found, TablePreprocessing)
    return found
