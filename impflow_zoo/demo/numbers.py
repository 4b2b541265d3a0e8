"""What a model says of one row, and what is proven of its nets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.data import Source
from impflow_zoo.demo.looks import rounded
from impflow_zoo.evaluation.scoring import score
from impflow_zoo.lipschitz.certify import Certificate, worst
from impflow_zoo.lipschitz.names import in_words
from impflow_zoo.models.flow import Ensemble, FlowModel
from impflow_zoo.models.metrics import METRICS, Metric
from impflow_zoo.numerics.report import Report
from impflow_zoo.transforms.whole import walk

__all__ = ["RowNumbers", "bounds_of_nets", "margin_in_words", "numbers_of"]


@dataclass(frozen=True)
class RowNumbers:
    """Figures of a row.

    Arguments:
        log_prob: its log-density in nats.
        error: standard error of the estimate, NaN if it is not known.
        bits: bits per dimension of an image, and their error; None for a row of a table.
        round_trip: largest error of decoding its latents, in the unit that `evaluate` has: standard
            deviations of a column, or of images in [0, 1].
        steps, steps_back: evaluations of a net per root, from data to latents and back; 0 if there
            are no roots.
        latents: its image under the model, `[D]`; None for an ensemble, which has no map.
        metric: the model's.
    """

    log_prob: float
    error: float
    bits: tuple[float, float] | None
    round_trip: float
    steps: float
    steps_back: float
    latents: Tensor | None
    metric: Metric

    @property
    def lines(self) -> dict[str, str]:
        """The figures, as a person writes them; those that a model does not have are left out.

        The density has one unit: bits grow where nats fall, and a person confuses the two.
        """
        if self.bits is None:
            found = {"log-density": f"{rounded(self.log_prob, self.error)} nats"}
        else:
            found = {self.metric.unit: f"{rounded(*self.bits)}, {self.metric.direction}"}
        if self.latents is not None:
            shown = ", ".join(f"{value:.2f}" for value in self.latents[:6].tolist())
            more = f", ... ({len(self.latents)})" if len(self.latents) > 6 else ""
            found["latents"] = f"{shown}{more}"
            found["length of the latents"] = f"{float(self.latents.norm()):.2f}"
            found["round-trip error"] = f"{self.round_trip:.1g}, {self.metric.round_trip}"
        ways = {"encoding": self.steps, "decoding": self.steps_back}
        said = ", ".join(f"{steps:.1f} {way}" for way, steps in ways.items() if steps)
        if self.latents is not None and said:
            found["iterations per root"] = said
        return found


@torch.no_grad()
def numbers_of(model: FlowModel, source: Source, unit: Tensor | float = 1.0) -> RowNumbers:
    """The figures of the first row of a set.

    Arguments:
        model: in evaluation mode.
        source: the set.
        unit: what errors are divided by, `[D]` or one number.

    Raises:
        ModelError: if it is outside the bounds of the model.
        SolverError: if a root is not found.
    """
    scored = score(model, source, seed=0, limit=1)
    assert scored.first is not None
    z: Tensor | None = None
    round_trip, steps_back = math.nan, 0.0
    if not isinstance(model, Ensemble):
        z, round_trip, steps_back = _there_and_back(model, scored.first[:1], unit)
    value, error = float(scored.log_prob[0]), float(scored.figures["variance"][0].sqrt())
    bits = None
    if len(model.config.shape) == 3:
        ends = torch.tensor([value, value + error], dtype=torch.float64)
        one, other = model.preprocessing.metric(ends).tolist()
        bits = one, abs(one - other)
    return RowNumbers(
        value,
        error,
        bits,
        round_trip,
        float(scored.figures["steps"][0]),
        steps_back,
        z,
        METRICS[model.config.metric],
    )


def _there_and_back(
    model: FlowModel, row: Tensor, unit: Tensor | float
) -> tuple[Tensor, float, float]:
    """The latents of a row, `[D]`, the error of decoding them, and evaluations per root for it."""
    x, context = model.parted(row.to(next(model.parameters()).device))
    z = model.encode(x, context)
    report = Report()
    options: dict[str, Any] = {"want_logdet": False, "report": report}
    decoded, _ = walk(model.transform, z, context, backwards=True, **options)
    error = model.preprocessing.difference(decoded, x).abs().cpu()
    steps = [float(root.steps.double().mean()) for root in report.roots]
    return z[0].cpu(), float((error / unit).max()), sum(steps) / max(1, len(steps))


def margin_in_words(certificates: Sequence[Certificate]) -> str:
    """What certificates prove of the whole model, as a sentence."""
    if not certificates:
        return "The layers are invertible by construction: there are no nets to bound."
    bound, count = worst(certificates).bound, len(certificates)
    if bound is None:
        return f"Not certified: there are {count} nets, and not each has a bound."
    nets = f"each of its {count} nets" if count > 1 else "its net"
    proven = f"{nets} has a Lipschitz constant of at most {_shown(bound)}"
    if bound >= 1:
        return f"Not certified: {proven}, which is not below 1."
    return f"Every block is invertible: {proven}."


def bounds_of_nets(certificates: Sequence[Certificate]) -> list[list[str]]:
    """A line for the nets of one bound as shown: number, bound, norm and names."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, one in enumerate(certificates):
        bound = "none" if one.bound is None else _shown(one.bound)
        groups.setdefault((bound, one.norm), []).append(i)
    names, lines = in_words([one.name for one in certificates]), []
    for said, places in groups.items():
        (first, *_), count = places, len(places)
        if count == 1:
            nets = names[first]
        else:
            others = "some from " if places[-1] - first >= count else ""  # those between them
            nets = f"{others}{names[first]} to {names[places[-1]]}"
        lines.append([str(count), *said, nets])
    return lines


def _shown(bound: float) -> str:
    """A bound in four decimals, rounded up; in all it has if those would make it 1.

    Certificates hold to 1e-6, so as much more than four decimals is no reason to round up.

    Example:
        >>> _shown(0.95), _shown(0.950001), _shown(0.95004), _shown(0.99999), _shown(1.5)
        ('0.9500', '0.9500', '0.9501', '0.99999', '1.5')
    """
    if bound >= 1:
        return f"{bound:.6g}"
    up = math.ceil(1e4 * bound - 0.02) / 1e4
    return f"{up:.4f}" if up < 1 else str(bound)
