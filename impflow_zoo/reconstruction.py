"""Encode rows, decode them again, and compare."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.numerics.settings import is_whole
from impflow_zoo.registry import scored_split
from impflow_zoo.scoring import open_rows

__all__ = ["Reconstruction", "reconstruct"]


@dataclass(frozen=True)
class Reconstruction:
    """Rows before and after encoding and decoding.

    Arguments:
        rows: rows as the model is shown them (of images as many bits as it has), `[N, ...]`.
        decoded: the same after encoding and decoding.
        largest_error: largest difference in the units of the rows: grey levels for images.
        largest_float_error: the same before rounding, on the scale the transform takes.
    """

    rows: Tensor
    decoded: Tensor
    largest_error: float
    largest_float_error: float


@torch.no_grad()
def reconstruct(
    model: FlowModel,
    dataset: str | os.PathLike[str] | None = None,
    split: str | None = None,
    *,
    n: int = 16,
) -> Reconstruction:
    """Send the first rows of a data set to the latent space and back.

    Values go in at the middle of their rounding step, so that rounding at the end forgives errors
    of half a step.

    Arguments:
        model: a model in evaluation mode.
        dataset: as in `evaluate`.
        split: as in `evaluate`.
        n: how many rows, at least one.

    Raises:
        ModelError: for another number of rows, or contexts without names.
        DataError: if the data cannot be opened or do not fit the model.
        SolverError: if a root is not found.
    """
    if not (is_whole(n) and n >= 1):
        raise ModelError(f"n={n!r}: a number of rows is needed, at least 1")
    where = scored_split(model, dataset, split)
    source = open_rows(model.config, where.dataset, where.split, where.revision)
    rows = source.rows(range(min(n, len(source))))
    middle = torch.full(rows.shape, 0.5, dtype=torch.float64)
    reference = next(model.parameters())
    x, context = model.parted(model.dequantise(rows, middle).to(reference))
    shown, back = model.to_data(x), model.decode(model.encode(x, context), context)
    decoded, difference = model.to_data(back), model.preprocessing.difference
    return Reconstruction(
        shown,
        decoded,
        float(difference(decoded.double(), shown.double()).abs().max()),
        float(difference(back, x).abs().max()),
    )
