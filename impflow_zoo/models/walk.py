"""Rows go through a transform and its parts, with arguments that nflows lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nflows.transforms import CompositeTransform, Transform
from torch import Tensor

from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.report import Report
from impflow_zoo.transforms.base import ResidualBlock
from impflow_zoo.transforms.context import StandardisedContext
from impflow_zoo.transforms.images import Multiscale

__all__ = ["Walk"]


@dataclass(frozen=True)
class Walk:
    """How to go through a transform.

    Arguments:
        context: one context per row, or None.
        backwards: noise -> data.
        want_logdet: compute log-determinants of our blocks; else zeros stand in their place.
        probes: where probes of log-determinants come from.
        report: filled in with what the numerics of our blocks found.
    """

    context: Tensor | None = None
    backwards: bool = False
    want_logdet: bool = True
    probes: Probes | None = None
    report: Report | None = None

    def __call__(self, transform: Transform, x: Tensor) -> tuple[Tensor, Tensor]:
        """What comes of rows, `[B, ...]`, and the log-determinants, `[B]`."""
        if isinstance(transform, CompositeTransform):
            parts, within = list(_parts(transform)), self
            if isinstance(transform, StandardisedContext):
                within = replace(self, context=transform.seen(self.context))
            total = x.new_zeros(len(x))
            for part in reversed(parts) if self.backwards else parts:
                x, logdet = within(part, x)
                total = total + logdet
            return x, total
        if isinstance(transform, Multiscale):
            return (transform.merge if self.backwards else transform.split)(self, x)
        if isinstance(transform, ResidualBlock):
            x, found = transform.run(
                x,
                self.context,
                backwards=self.backwards,
                want_logdet=self.want_logdet,
                probes=self.probes,
                report=self.report,
            )
            return x, x.new_zeros(len(x)) if found is None else found
        whole: tuple[Tensor, Tensor] = (transform.inverse if self.backwards else transform)(
            x, self.context
        )
        if whole[1].shape != x.shape[:1]:  # a sum would spread it over rows
            name, shape = type(transform).__name__, tuple(whole[1].shape)
            raise ValueError(f"{name} has log-determinants of shape {shape}: [{len(x)}] is needed")
        return whole


def _parts(transform: Transform) -> Sequence[Transform]:
    """The parts of a composite of nflows, which keeps them in its first child, a list."""
    parts, *_ = transform.children()
    return list(parts.children())
