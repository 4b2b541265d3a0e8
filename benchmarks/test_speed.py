"""The cases of `speed.py` under pytest-benchmark.

OMP_NUM_THREADS=1 pytest benchmarks/test_speed.py -o addopts=
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES, make_side
from speed import sides_of

EVERYTHING = [
    (case, side, task) for case in CASES for side in sides_of(case) for task in CASES[case].tasks
]


@pytest.mark.parametrize(("case", "side", "task"), EVERYTHING, ids=map("-".join, EVERYTHING))
def test_speed(benchmark: Any, case: str, side: str, task: str) -> None:
    torch.set_num_threads(1)
    model = make_side(side, CASES[case])
    model.prepare(task)
    benchmark.group = f"{case} {task}"
    benchmark.pedantic(model.run, (task,), rounds=5, warmup_rounds=1)
