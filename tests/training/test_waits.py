"""How often the host waits for numbers in a step of training: on a GPU each wait leaves it idle."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from impflow_zoo import ImpFlow, ResFlow, TabularConfig
from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.training.optimisation import Optimisation
from impflow_zoo.training.recipe import TrainingSettings

WAITS = {"_local_scalar_dense", "nonzero", "equal", "_linalg_check_errors", "_linalg_eigh"}


class Operators(TorchDispatchMode):
    """Counts operators by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None) -> Any:
        self.counts[operator.overloadpacket.__name__] += 1
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize(("cls", "most"), [(ImpFlow, 12), (ResFlow, 6)])
@pytest.mark.parametrize("features", [2, 6])
def test_a_step_of_training_waits_for_few_numbers(cls, most, features):
    """Not once for each layer: six blocks have 18 of them, twice as many if they are implicit."""
    model = cls(TabularConfig(features=features, blocks=6))
    x = torch.randn(200, features)
    model.fit_preprocessing(x)
    optimisation = Optimisation(model, TrainingSettings(steps=10), Processes())
    optimisation.start(x)
    optimisation.step(0, x, len(x))
    with Operators() as operators:
        optimisation.step(1, x, len(x))
    waits = {name: n for name, n in operators.counts.items() if name in WAITS}
    assert operators.counts["mm"] + operators.counts["addmm"] > 50
    assert 0 < sum(waits.values()) <= most, waits
