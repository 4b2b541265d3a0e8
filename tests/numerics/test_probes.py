"""Probes: what they are drawn from, and which rows and nets share them."""

from __future__ import annotations

import pytest
import torch
from support.blocks import (
    KAPPA,
    build,
    draw,
)

from impflow_zoo import LipschitzMLP, LogDet
from impflow_zoo.numerics.folded import fold
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.residual import ResidualMap
from impflow_zoo.numerics.seeds import mix


def test_probes_are_signs():
    like = torch.empty(3, 2, 4, 4)
    for probe in (Probes().fresh(like), Probes().seeded(like, 1)):
        assert probe.shape == like.shape
        assert probe.dtype == like.dtype
        assert set(probe.flatten().tolist()) == {-1.0, 1.0}


def test_seeded_probes_depend_on_the_seed_alone():
    like = torch.empty(5, 64)
    torch.manual_seed(1)
    probe = Probes().seeded(like, 3, 0)
    torch.manual_seed(2)
    assert torch.equal(probe, Probes().seeded(like, 3, 0))
    assert torch.equal(probe[:2], Probes().seeded(like[:2], 3, 0))
    assert torch.equal(probe.double(), Probes().seeded(like.double(), 3, 0))
    assert (probe == probe[0]).all()  # one probe set for all rows
    for other in ((3, 1), (4, 0), (3,)):
        assert not torch.equal(probe, Probes().seeded(like, *other))


def test_keyed_probes_depend_on_the_index_of_the_row():
    like = torch.empty(4, 64)
    probe = Probes(range(10, 14)).seeded(like, 3, 0)
    some = Probes([13, 11]).seeded(like[:2], 3, 0)
    assert torch.equal(some, probe[[3, 1]])
    assert len(torch.unique(probe, dim=0)) == 4
    assert Probes([]).seeded(like[:0], 3, 0).shape == (0, 64)
    assert torch.equal(Probes().seeded(like, 3, 0)[0], Probes().seeded(like, 3, 0)[1])


def test_keys_make_a_mean_independent_of_the_batches():
    block = build("impflow-sin", "truncated")
    x, _ = draw("impflow-sin", 12)
    whole = block.run(x, probes=Probes(range(12)))[1]
    parts = []
    for start in (0, 5, 10):
        rows = range(start, min(start + 5, 12))
        parts.append(block.run(x[rows.start : rows.stop], probes=Probes(rows))[1])
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-14)
    assert (whole - block(x)[1]).abs().max() > 1e-6


def test_keys_and_rows_must_match():
    with pytest.raises(ValueError, match="3 keys, the batch 2 rows"):
        Probes(range(3)).seeded(torch.empty(2, 2), 0)


def test_seeds_are_mixed_well():
    seeds = {mix(a, b) for a in range(100) for b in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= s < 2**63 for s in seeds)
    assert mix(1, 2) != mix(2, 1)


def test_nets_of_a_block_have_probes_of_their_own():
    """Else the errors of the two log-determinants of tied nets would cancel, or add."""
    net = LipschitzMLP(6, (8,), "sin", KAPPA).double().eval()
    x = torch.randn(2, 6, dtype=torch.float64)
    maps = (ResidualMap(fold(net, None), logdet=LogDet("truncated"), salt=s) for s in (0, 1))
    one, other = (r.value_and_logdet(x)[1] for r in maps)
    assert (one != other).all()


def test_settings_with_a_seed_of_their_own():
    settings = LogDet("truncated", n_terms=3, seed=5)
    other = settings.seeded(2)
    assert other.seed == mix(5, 2)
    assert (other.mode, other.n_terms) == ("truncated", 3)
