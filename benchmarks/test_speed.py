"""The cases of `speed.py` under pytest-benchmark.

OMP_NUM_THREADS=1 pytest benchmarks/test_speed.py -o addopts=
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES, TASKS, make_side
from speed import sides_of

EVERYTHING = [(case, side) for case in CASES for side in sides_of(case)]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("case", "side"), EVERYTHING, ids=[f"{c}-{s}" for c, s in EVERYTHING])
def test_speed(benchmark: Any, case: str, side: str, task: str) -> None:
    torch.set_num_threads(1)
    model = make_side(side, CASES[case])
    model.prepare(task)
    benchmark.group = f"{case} {task}"
    benchmark.pedantic(model.run, (task,), rounds=5, warmup_rounds=1)
