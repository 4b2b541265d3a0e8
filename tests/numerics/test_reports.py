"""Reports hold what roots and log-determinants were found, and change nothing."""

from __future__ import annotations

import pytest
import torch
from support.blocks import (
    build,
    draw,
    reported,
)
from torch import nn

from impflow_zoo import LogDet
from impflow_zoo.numerics.folded import fold
from impflow_zoo.numerics.report import Call, Report
from impflow_zoo.numerics.residual import ResidualMap


@pytest.mark.parametrize(
    ("logdet", "mode"),
    [
        ("exact", "exact"),
        ("truncated", "truncated"),
        ("unbiased", "unbiased"),
        (LogDet("unbiased", series="roulette"), "unbiased"),
    ],
    ids=["exact", "truncated", "unbiased", "roulette"],
)
def test_a_report_holds_roots_and_logdets(logdet, mode):
    block = build("impflow-sin", logdet)
    x, _ = draw("impflow-sin", 3)
    report = reported(block, x)
    assert [len(root.value) for root in report.roots] == [3]
    assert [estimate.mode for estimate in report.logdets] == [mode, mode]
    for estimate in report.logdets:
        assert estimate.variance.shape == (3,)
        assert (estimate.bias is None) == (mode == "unbiased")
        assert (estimate.products > 0) == (mode == "unbiased")
    report = Report()
    block.run(x, want_logdet=False, report=report)
    assert (len(report.roots), len(report.logdets)) == (1, 0)


def test_a_report_changes_no_answer():
    block = build("impflow-sin", "truncated")
    x, _ = draw("impflow-sin")
    silent = block(x)[1]
    assert torch.equal(block.run(x, report=Report())[1], silent)


@pytest.mark.parametrize("mode", ["auto", "truncated"])
def test_a_report_adds_nothing_to_the_graph(mode):
    net, x = nn.Linear(80, 80), torch.randn(2, 80)
    net.weight.data.copy_(-0.9 * torch.eye(80))

    def saved(report):
        found = []

        def pack(tensor):
            found.append(tensor)
            return tensor

        block = ResidualMap(
            fold(net, None), logdet=LogDet(mode, n_probes=1), call=Call(report=report)
        )
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            block.value_and_logdet(x)
        return len(found)

    assert saved(Report()) == saved(None)
