"""Whether noise determines the rows that it decodes to, with the digits that its type has.

Where a map is flat, encoding loses digits: rows that differ have the same noise, up to rounding,
and no inverse can tell them apart. Blocks of contractions are nowhere flat. Splines and mixtures of
Gaussians may be, far from the data or in a gap between modes.
"""

from __future__ import annotations

import warnings

import torch
from nflows.transforms import Transform
from torch import Tensor

from impflow_zoo.models.preprocessing import ImagePreprocessing, TablePreprocessing
from impflow_zoo.numerics.compiled import uncompiled
from impflow_zoo.numerics.modes import is_transforming
from impflow_zoo.numerics.solver import NumericalWarning
from impflow_zoo.transforms.base import NUMERICAL_ERRORS
from impflow_zoo.transforms.whole import walk

__all__ = ["LARGEST_ERROR", "remedy", "warn_of_lost_digits"]

LARGEST_ERROR = 0.01  # of decoded rows, in standard deviations of a column; pixels lie in [0, 1]
_BEYOND = 6.0  # how much longer than sqrt(D) far noise is
_CHECKED = 100  # rows at most


def remedy(dtype: torch.dtype) -> str:
    """The end of a message on numbers that a type has too few digits for."""
    return "" if dtype == torch.float64 else ": use model.double()"


@uncompiled
@torch.no_grad()
def warn_of_lost_digits(
    transform: Transform,
    preprocessing: TablePreprocessing | ImagePreprocessing,
    z: Tensor,
    context: Tensor | None,
    x: Tensor,
) -> None:
    """Emit a `NumericalWarning` if noise far from zero, moved by its rounding, decodes elsewhere.

    It is called where noise is decoded, and names the line that asked for it.

    Arguments:
        transform, preprocessing: of a model of a table; images are not checked, nor is training.
        z: noise, with shape `[B, D]`.
        context: one context per row, or None.
        x: the rows that it decodes to.
    """
    if transform.training or is_transforming():
        return
    # A normal row is longer than sqrt(D) + 6 with a probability below exp(-18), so samples are not
    # decoded twice. Near zero the map cannot be steep over more than a small part of the noise: a
    # factor of 1e5, which 1e-7 takes to lose 0.01, would spread the samples over 1e5 deviations.
    far = torch.linalg.vector_norm(z, dim=1) > z.shape[1] ** 0.5 + _BEYOND
    rows = far.nonzero()[:_CHECKED, 0]
    spread = preprocessing.spread(transform) if len(rows) else None
    if spread is None:
        return
    z, context = z[rows], None if context is None else context[rows]
    # Blocks mix the columns: all of them are rounded like the largest.
    step = torch.finfo(z.dtype).eps * z.abs().amax(dim=1, keepdim=True)
    signs = torch.randint(2, z.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moved = z + step * signs.to(z)
    try:
        others, _ = walk(transform, moved, context, backwards=True, want_logdet=False)
    except NUMERICAL_ERRORS:  # of rows that nobody asked for
        return
    error = (preprocessing.difference(others, x[rows]) / spread).abs().amax(dim=1)
    if count := int((error > LARGEST_ERROR).sum()):
        warnings.warn(
            f"in {count} of {len(rows)} rows of noise far from zero, rounding the noise to "
            f"{z.dtype} moves what it decodes to by up to {float(error.max()):.1e} standard "
            f"deviations of a column{remedy(z.dtype)}",
            NumericalWarning,
            stacklevel=5,
        )
