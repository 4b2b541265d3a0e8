"""What the numerics of a call found out beyond its answer, and questions put off to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from impflow_zoo.numerics.estimate import Estimate
from impflow_zoo.numerics.solver import Solution

__all__ = ["Doubts", "Report"]


@dataclass
class Report:
    """Filled in by a call that is given one, in the order of its residual maps.

    Arguments:
        roots: one for each root.
        logdets: one for each log-determinant, without graphs.
    """

    roots: list[Solution] = field(default_factory=list)
    logdets: list[Estimate] = field(default_factory=list)


class Doubts:
    """Conditions that have to hold, gathered over a call: the host waits for all of them once."""

    def __init__(self) -> None:
        self._flags: list[Tensor] = []
        self._remedies: list[Callable[[], None]] = []

    def add(self, wrong: Tensor, then: Callable[[], None]) -> None:
        """Note a number that is zero if all is well, and what to do if not: raise, or warn."""
        self._flags.append(wrong)
        self._remedies.append(then)

    def settle(self) -> None:
        """Look at what was noted so far, in order."""
        if not self._flags:
            return
        wrong = torch.stack(self._flags).tolist()
        remedies = [then for bad, then in zip(wrong, self._remedies, strict=True) if bad != 0]
        self._flags, self._remedies = [], []
        for then in remedies:
            then()
