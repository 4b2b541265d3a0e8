"""Statistics of the numerics of a call, and checks that are postponed to its end."""

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
    """Statistics that a call fills in, in the order of its residual maps; without graphs."""

    roots: list[Solution] = field(default_factory=list)
    logdets: list[Estimate] = field(default_factory=list)


class Doubts:
    """Conditions that must hold, collected over a call: the host waits for all of them once."""

    def __init__(self) -> None:
        self._noted: list[tuple[Tensor, Callable[[], None]]] = []

    def add(self, number: Tensor, then: Callable[[], None]) -> None:
        """Add a number, finite and not `True` if all is well, and a function to call if not."""
        self._noted.append((number, then))

    def settle(self) -> None:
        """Check all conditions in order, and call the functions of those that fail."""
        noted, self._noted = self._noted, []
        found = torch.stack([number for number, _ in noted]).tolist() if noted else []
        for (number, then), value in zip(noted, found, strict=True):
            if value if number.dtype == torch.bool else not math.isfinite(value):
                then()
