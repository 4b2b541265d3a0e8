"""The speed benchmark counts what blocks evaluate, on small cases of each kind."""

from __future__ import annotations

import pytest
import torch
from cases import TASKS, Case, make_side
from counting import counting

from impflow_zoo.numerics.report import Report
from impflow_zoo.transforms.whole import walk

PLANE = Case((2,), 3, (8, 8), 5)
IMAGE = Case((3, 8, 8), 2, (4,), 2, lipschitz=0.9)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("case", "maker"),
    [(PLANE, "impflow"), (PLANE, "resflow"), (PLANE, "normflows"), (IMAGE, "impflow")],
    ids=["plane-impflow", "plane-resflow", "plane-normflows", "image-impflow"],
)
def test_every_task_runs_and_is_counted(case, maker, task):
    side = make_side(maker, case)
    side.prepare(task)
    with counting(side) as counts:
        side.run(task)
    assert counts.evaluations >= case.blocks
    if task != "sample":
        assert counts.products > 0
    elif maker != "normflows":  # which computes a log-determinant nobody asked for
        assert counts.products == 0


def test_the_counts_are_those_of_the_mathematics():
    side = make_side("resflow", PLANE)
    side.prepare("log_prob")
    with counting(side) as counts:
        side.run("log_prob")
    assert (counts.evaluations, counts.products) == (3, 6)  # a value and two rows of a Jacobian
    side = make_side("normflows", PLANE)
    side.prepare("log_prob")
    with counting(side) as counts:
        side.run("log_prob")
    assert counts.evaluations == 3
    side = make_side("impflow", PLANE)
    side.prepare("sample")
    report = Report()
    with torch.no_grad():
        walk(side.modules, side.x, backwards=True, want_logdet=False, report=report)
    with counting(side) as counts:
        side.run("sample")
    roots = [int(root.steps.max()) for root in report.roots]
    assert len(roots) == 3
    assert 3 + sum(roots) <= counts.evaluations <= 3 + 3 * 12
