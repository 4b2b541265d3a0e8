"""What a model says of one row, and of its nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.data import Source
from impflow_zoo.evaluation.scoring import score
from impflow_zoo.lipschitz.certify import Certificate, worst
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.walk import walk
from impflow_zoo.numerics.report import Report

__all__ = ["RowNumbers", "margin_in_words", "numbers_of"]


@dataclass(frozen=True)
class RowNumbers:
    """Figures of a row.

    Arguments:
        log_prob: its log-density in nats.
        error: standard error of the estimate, NaN if it is not known.
        round_trip: largest error of decoding its latents, in the units that the model takes.
        steps, steps_back: evaluations of a net per root, from data to latents and back; 0 if there
            are no roots.
        latents: its image under the model, `[D]`.
        in_metric: the log-density in the model's metric, with its unit.
    """

    log_prob: float
    error: float
    round_trip: float
    steps: float
    steps_back: float
    latents: Tensor
    in_metric: str

    def __str__(self) -> str:
        """The figures as a Markdown table."""
        shown = ", ".join(f"{value:.4f}" for value in self.latents[:6].tolist())
        more = f", ... ({len(self.latents)})" if len(self.latents) > 6 else ""
        error = f" ± {self.error:.2g}" if self.error > 0 else ""  # none of exact log-determinants
        lines = {
            "log-density": f"{self.log_prob:.4f}{error} nats",
            "in the model's metric": self.in_metric,
            "round-trip error": f"{self.round_trip:.1e}",
            "iterations per root": f"{self.steps:.1f}, on the way back {self.steps_back:.1f}",
            "latents": f"{shown}{more}",
            "length of the latents": f"{float(self.latents.norm()):.4f}",
        }
        return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in lines.items())])


@torch.no_grad()
def numbers_of(model: FlowModel, source: Source) -> RowNumbers:
    """The figures of the first row of a set.

    Raises:
        ModelError: if it is outside the bounds of the model.
        SolverError: if a root is not found.
    """
    scored = score(model, source, seed=0, limit=1)
    assert scored.first is not None
    x, context = model.parted(scored.first[:1].to(next(model.parameters()).device))
    z = model.encode(x, context)
    report = Report()
    asked: dict[str, Any] = {"want_logdet": False, "report": report}
    decoded, _ = walk(model.transform, z, context, backwards=True, **asked)
    back = model.preprocessing.difference(decoded, x)
    steps = [float(root.steps.double().mean()) for root in report.roots]
    value = float(model.preprocessing.metric(scored.log_prob)[0])
    return RowNumbers(
        float(scored.log_prob[0]),
        float(scored.figures["variance"][0].sqrt()),
        float(back.abs().max()),
        float(scored.figures["steps"][0]),
        sum(steps) / max(1, len(steps)),
        z[0].cpu(),
        f"{value:.4f} {METRICS[model.config.metric].unit}",
    )


def margin_in_words(certificates: Sequence[Certificate]) -> str:
    """What certificates prove of the whole model, in a line."""
    if not certificates:
        return "no nets to bound, the layers are invertible by construction"
    whole = worst(certificates)
    if whole.bound is None:
        return f"{len(certificates)} nets: not certified"
    proven = (
        "not certified as contractions" if whole.margin is None else "every block is invertible"
    )
    return f"{len(certificates)} nets: Lip <= {whole.bound:.6f}, {proven}"
