"""What a call of a block carries: its mode, its random numbers, its report and its checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from impflow_zoo.numerics.estimate import Estimate
from impflow_zoo.numerics.finite import assert_all
from impflow_zoo.numerics.modes import is_compiling, is_transforming, seen
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.solver import Solution

__all__ = ["Call", "Checks", "Report"]


@dataclass
class Report:
    """Statistics that a call fills in, in the order of its residual maps; without graphs."""

    roots: list[Solution] = field(default_factory=list)
    logdets: list[Estimate] = field(default_factory=list)


class Checks:
    """Conditions that must hold, each a number on the device.

    To look at a number the host waits for the device. Postponed, all conditions of a call are
    looked at together.

    Arguments:
        postponed: look at the conditions in `run` alone.
    """

    def __init__(self, *, postponed: bool = False) -> None:
        self._postponed = postponed
        self._conditions: list[tuple[Tensor, Callable[[], None]]] = []

    def add(self, number: Tensor, complain: Callable[[], None]) -> None:
        """Add a number, finite and not `True` if all is well, and a function to call if not."""
        self._conditions.append((number, complain))
        if not self._postponed:
            self.run()

    def run(self) -> None:
        """Check all conditions in order, and call the functions of those that fail."""
        conditions, self._conditions = self._conditions, []
        if not conditions:
            return
        if is_compiling():
            good = [~n if n.dtype == torch.bool else n.isfinite() for n, _ in conditions]
            assert_all(torch.stack(good), "a number in a block is NaN, or infinite")
            return
        values = torch.stack([number for number, _ in conditions])
        if is_transforming():  # mapped calls fail together
            values = seen(values[None]).sum(dim=0)
        for (number, complain), value in zip(conditions, values.tolist(), strict=True):
            if value if number.dtype == torch.bool else not math.isfinite(value):
                complain()


@dataclass(frozen=True)
class Call:
    """What belongs to one call of a block, and not to one of its residual maps.

    Arguments:
        training: take the tolerances of training, and warn instead of raising.
        probes: where the probes of log-determinants come from.
        report: filled in with roots and log-determinants.
        checks: receives what must hold.
    """

    training: bool = False
    probes: Probes = field(default_factory=Probes)
    report: Report | None = None
    checks: Checks = field(default_factory=Checks)
