"""The work of a fit is counted, and stays within the budget."""

from __future__ import annotations

import pytest

from impflow_zoo.fitting.budget import DECAYS, SEARCH, plan, price, prices
from impflow_zoo.fitting.columns import Findings
from impflow_zoo.fitting.portfolio import (
    FINE,
    PORTFOLIO,
    batch_size,
    candidates,
    heavier,
    lighter,
    own_candidate,
    variants,
)

PLANE = Findings(("a", "b"))
WIDE = Findings(tuple(f"x{i}" for i in range(9)))
ROWS = {"train": range(8000), "validation": range(1000)}


@pytest.fixture(scope="module")
def costs():
    """Of the portfolio on a table of nine columns."""
    return prices(PORTFOLIO, WIDE, ROWS)


@pytest.mark.parametrize("minutes", [0.1, 1, 2, 5, 10, 60])
def test_the_search_takes_its_part_of_the_work(costs, minutes):
    found = plan(costs, 60 * minutes)
    work = sum(size * found.unit * 2**i for i, size in enumerate(found.sizes))
    work += 2 * found.unit * found.variants  # which make up for the first round
    assert (work > 0) == bool(found.sizes)
    most = SEARCH * found.longest / (2 ** len(found.sizes) - 1) if found.sizes else 0.0
    part = max(SEARCH * 60 * minutes, 60 * minutes - 2 * found.longest)
    assert work == pytest.approx(part) or found.unit in (0, pytest.approx(most))
    assert found.decay in (0, pytest.approx(min(DECAYS * 30 * minutes, DECAYS * found.longest)))


def test_the_best_gets_what_the_others_leave(costs):
    found = plan(costs[:2], 300)
    assert found.sizes == (2,)
    assert found.path(300) == pytest.approx(300 - found.unit - found.decay)
    assert plan(costs[:1], 300).path(300) == 300
    whole = plan(costs, 3600)
    assert whole.variants
    assert whole.path(3600) == whole.longest  # more than the rows are good for


def test_weight_decay_is_chosen_if_runs_are_long_enough(costs):
    lengths = [plan(costs, 60 * minutes).decay / costs[0].step for minutes in (1, 2, 5, 10)]
    assert all(steps == 0 or steps >= 300 for steps in lengths)
    assert [steps > 0 for steps in lengths] == [False, False, True, True]


@pytest.mark.parametrize("minutes", [1, 2, 5, 60])
def test_each_candidate_of_a_search_has_enough_steps_to_be_told_apart(costs, minutes):
    found = plan(costs, 60 * minutes)
    tried = costs[: found.sizes[0]] if found.sizes else []
    steps = [found.steps(one, found.unit, 60 * minutes) for one in tried]
    assert min(steps, default=80) >= 80


@pytest.mark.parametrize("rows", [60, 240, 2400])
def test_small_tables_choose_by_runs_that_tell_something(rows):
    """Their rows are good for few steps, of which no run of the search has next to none."""
    splits = {"train": range(rows), "validation": range(rows // 8)}
    known = prices(PORTFOLIO, PLANE, splits)
    found = plan(known, 3600)
    first = [found.steps(one, found.unit, 3600) for one in known]
    assert all(steps >= min(80, one.most // 6) for steps, one in zip(first, known, strict=True))
    rounds = [found.unit * 2**number for number in range(len(found.sizes))]
    later = [found.steps(known[0], part, 3600) for part in rounds]
    later.append(found.steps(known[0], found.decay, 3600))
    assert sum(later) < known[0].most


@pytest.mark.parametrize("rows", [240, 2400])
def test_time_that_a_small_table_cannot_use_tries_all_candidates(rows):
    known = prices(PORTFOLIO, WIDE, {"train": range(rows), "validation": range(rows // 8)})
    found = plan(known, 1200)
    assert found.sizes[0] == len(PORTFOLIO)
    assert found.variants == (rows > 1000)  # whose rows are good for two rounds


def test_more_time_tries_more(costs):
    sizes = [plan(costs, 60 * minutes).sizes[:1] for minutes in (0.1, 1, 2, 5, 10, 60)]
    assert sizes == sorted(sizes)
    assert sizes[0] == ()
    assert sizes[-1] == (len(PORTFOLIO),)


@pytest.mark.parametrize("candidate", PORTFOLIO, ids=lambda one: one.name)
def test_steps_cost_more_for_more_columns_and_are_limited_by_rows(candidate):
    narrow, more = (price(candidate, columns, 8000, 1000) for columns in (PLANE, WIDE))
    assert 0 < narrow.step < more.step
    assert 0 < narrow.validation < more.validation
    work = 50 * narrow.step + 3 * narrow.validation
    assert narrow.steps(1.01 * work, 3) == 50
    few = price(candidate, PLANE, 500, 50)
    assert few.steps(1e6, 3) == few.most
    assert few.most * batch_size(500) < 100 * 500


@pytest.mark.parametrize("model", ["LinearGaussian", "SplineFlow", "ResFlow"])
def test_steps_of_small_models_have_a_least_price(model):
    """Torch and Python take milliseconds for a step, so a run has not too many of them."""
    config = {} if model == "LinearGaussian" else {"blocks": 2, "hidden_features": 8}
    config = {**config, "hidden_features": [8]} if model == "ResFlow" else config
    small = own_candidate(model, config, 2)
    assert price(small, PLANE, 8000, 1000).step >= 4e-3


def test_candidates_fit_the_columns():
    one = Findings(("a",))
    assert "spline-coupling" not in [candidate.name for candidate in candidates(one)]
    rounded = Findings(("a", "b"), rounding={"a": 0.1})
    assert candidates(rounded) == [PORTFOLIO[0], FINE, *PORTFOLIO[1:]]
    angle = Findings(("a", "b"), rounding={"a": 0.1}, stated={"periodic": {"a": 360.0}})
    assert FINE not in candidates(angle)
    given = candidates(Findings(("a",), ("c",)))
    assert all(price(candidate, Findings(("a",), ("c",)), 100, 10).step for candidate in given)


def test_variants_differ_from_the_leader_in_one_setting():
    leader = PORTFOLIO[0]
    radial, plain = variants(leader)
    assert radial.config == {**leader.config, "radial": True}
    assert plain.config == {**leader.config, "whiten": False}
    _, white = variants(FINE)
    assert (white.name, white.config) == (f"{FINE.name}-whitened", {**FINE.config, "whiten": True})
    assert heavier(leader).training == {**leader.training, "weight_decay": 3.0}
    light = lighter(leader)
    assert light.training == {**leader.training, "weight_decay": 0.1}
