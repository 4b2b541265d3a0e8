"""What the numerics of a call found out beyond its answer, and questions put off to its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from impflow_zoo.numerics.estimate import Estimate
from impflow_zoo.numerics.solver import Solution

__all__ = ["Doubts", "Report"]


@dataclass
class Report:
    """Filled in by a call that is given one, in the order of its residual maps; without graphs."""

    roots: list[Solution] = field(default_factory=list)
    logdets: list[Estimate] = field(default_factory=list)


class Doubts:
    """Conditions that have to hold, gathered over a call: the host waits for all of them once."""

    def __init__(self) -> None:
        self._noted: list[tuple[Tensor, Callable[[], None]]] = []

    def add(self, number: Tensor, then: Callable[[], None]) -> None:
        """Note a number that is finite and not `True` if all is well, and what to do if not."""
        self._noted.append((number, then))

    def settle(self) -> None:
        """Look at what was noted so far, in order: what to do may be to raise, or to warn."""
        noted, self._noted = self._noted, []
        found = torch.stack([number for number, _ in noted]).tolist() if noted else []
        for (number, then), value in zip(noted, found, strict=True):
            if value if number.dtype == torch.bool else not math.isfinite(value):
                then()
