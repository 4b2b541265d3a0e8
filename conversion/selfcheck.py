"""What a converted model is checked for, without the code it came from."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import nn

from conversion.pickles import ConversionError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.transforms.base import NUMERICAL_ERRORS

__all__ = ["LARGE", "checked", "size_of"]

LARGE = 2_000_000  # parameters, from which on float64 and many probes take minutes


def size_of(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def checked(model: FlowModel) -> list[str]:
    """What a round trip and densities of rows of noise come to, in words.

    Raises:
        ConversionError: if a root is not found or a log-density is not finite.
    """
    large = size_of(model) > LARGE
    dtype, rows = (torch.float32, 1) if large else (torch.float64, 4)
    model = copy.deepcopy(model).eval().to(dtype)
    for block in model.blocks() if large else ():
        block.logdet = dataclasses.replace(block.logdet, n_terms=10, n_probes=1)
    generator, shape = torch.Generator().manual_seed(0), (rows, *model.config.shape)
    images = len(shape) == 4
    x = (torch.rand if images else torch.randn)(shape, generator=generator, dtype=dtype)
    try:
        error = float((model.decode(model.encode(x)) - x).abs().max())
        log_prob = model.log_prob(x)
    except NUMERICAL_ERRORS as failure:
        raise ConversionError(f"the self-check failed: {failure}") from None
    if not bool(log_prob.isfinite().all()):
        raise ConversionError("the self-check failed: a log-density is not finite")
    low, high = float(log_prob.min()), float(log_prob.max())
    return [
        f"self-check: round trip of {rows} rows of noise in {dtype}, largest error {error:.1e}",
        f"self-check: log-densities of these rows are finite, {low:.4g} to {high:.4g} nats",
    ]
