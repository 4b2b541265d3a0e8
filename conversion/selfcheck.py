"""What a converted model is checked for, without the code it came from."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from conversion.errors import ConversionError
from impflow_zoo.lipschitz.certify import Certificate, certify, worst
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.preprocessing import ImagePreprocessing
from impflow_zoo.numerics.solver import SolverError

__all__ = ["LARGE", "SelfCheck", "check"]

LARGE = 2_000_000  # parameters, from which on float64 and many probes take minutes
_ROWS = 4


@dataclass(frozen=True)
class SelfCheck:
    """Outcome of a self-check.

    Arguments:
        round_trip: largest error of data -> noise -> data.
        log_prob: smallest and largest log-density of the rows, in nats.
        rows: how many rows of noise.
        dtype: type of the arithmetic.
        certificate: bounds of the nets.
    """

    round_trip: float
    log_prob: tuple[float, float]
    rows: int
    dtype: str
    certificate: tuple[Certificate, ...]

    def lines(self) -> list[str]:
        """What the card says."""
        low, high = self.log_prob
        return [
            f"round trip of {self.rows} rows of noise, in {self.dtype}: largest error "
            f"{self.round_trip:.1e}",
            f"log-density of these rows: finite, {low:.4g} to {high:.4g} nats",
            bound_line(self.certificate),
        ]


def bound_line(certificate: tuple[Certificate, ...]) -> str:
    """What is proven of the nets' Lipschitz constants, in a line."""
    whole = worst(certificate)
    proven = (
        "not certified as a contraction" if whole.margin is None else f"margin {whole.margin:.4f}"
    )
    largest = "none known" if whole.bound is None else f"{whole.bound:.4f}"
    return f"largest bound of a net's Lipschitz constant (2-norm): {largest}, {proven}"


@torch.no_grad()
def check(model: FlowModel) -> SelfCheck:
    """Round trip, densities and certificate, on rows of noise.

    Raises:
        ConversionError: if a root is not found or a log-density is not finite.
    """
    large = sum(p.numel() for p in model.parameters()) > LARGE
    checked = copy.deepcopy(model).eval()
    checked = checked.float() if large else checked.double()
    if large:
        for block in checked.blocks():
            block.logdet = dataclasses.replace(block.logdet, n_terms=10, n_probes=1)
    x = _noise(checked, 1 if large else _ROWS)
    try:
        again = checked.decode(checked.encode(x))
        log_prob = checked.log_prob(x)
    except (SolverError, ValueError) as error:
        raise ConversionError(f"the self-check failed: {error}") from None
    if not bool(log_prob.isfinite().all()):
        raise ConversionError("the self-check failed: a log-density is not finite")
    return SelfCheck(
        float((again - x).abs().max()),
        (float(log_prob.min()), float(log_prob.max())),
        len(x),
        "float32" if large else "float64",
        tuple(certify(checked)),
    )


def _noise(model: FlowModel, rows: int) -> Tensor:
    """Images of noise, or standard normal rows."""
    generator = torch.Generator().manual_seed(0)
    dtype, shape = next(model.parameters()).dtype, (rows, *model.config.shape)
    if isinstance(model.preprocessing, ImagePreprocessing):
        levels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return model.dequantise(levels, torch.full(shape, 0.5)).to(dtype)
    return torch.randn(shape, generator=generator, dtype=dtype)
