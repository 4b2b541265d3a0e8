"""Standard errors of means: by hand, and by how often an interval holds the true mean."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impflow_zoo.evaluation.standard_errors import clustered, same_groups, standard_error

GROUPS = torch.tensor([0, 2, 2, 0, 0, 5])
VALUES = torch.tensor([1.0, 5.0, 6.0, 2.0, 3.0, 7.0], dtype=torch.float64)


def test_residuals_are_added_up_within_groups():
    residuals = VALUES - 4  # -3, 1, 2, -2, -1, 3
    assert float(residuals.sum()) == 0
    assert float(standard_error(VALUES, GROUPS)) == pytest.approx(
        math.sqrt(3 / 2 * ((-6) ** 2 + 3**2 + 3**2)) / 6
    )


@given(st.permutations(range(6)))
def test_neither_the_order_of_rows_nor_the_names_of_groups_matter(order):
    renamed = 10 - GROUPS
    found = standard_error(VALUES[list(order)], renamed[list(order)])
    assert float(found) == pytest.approx(float(standard_error(VALUES, GROUPS)))


def test_groups_of_one_row_are_independent_rows():
    rows = torch.randn(3, 40, dtype=torch.float64)
    usual = rows.std(dim=1) / 40**0.5
    torch.testing.assert_close(standard_error(rows), usual)
    torch.testing.assert_close(standard_error(rows, torch.arange(40)), usual)


def test_copies_of_rows_teach_nothing():
    rows = torch.randn(40, dtype=torch.float64)
    copies, groups = rows.repeat(7), torch.arange(40).repeat(7)
    torch.testing.assert_close(standard_error(copies, groups), standard_error(rows))


def test_a_single_row_or_group_has_no_error():
    assert math.isnan(standard_error(VALUES[:1]))
    assert math.isnan(standard_error(VALUES, torch.zeros(6, dtype=torch.int64)))


def test_every_row_has_a_group():
    with pytest.raises(ValueError, match=r"6 rows need .* groups, not \[5\]"):
        standard_error(VALUES, GROUPS[:5])


SIMULATIONS, NUMBER, ROWS = 4000, 60, 600  # of groups in all, and of rows in all


@pytest.mark.parametrize("sizes", ["equal", "drawn"])
def test_clustered_intervals_hold_the_true_mean_as_often_as_they_say(sizes):
    """Intervals of 95 %; rows of a group share a part that has the variance of their own part.

    With equal sizes Student's t with G - 1 degrees of freedom is exact, so the rate may be off by
    its binomial error alone. Groups whose sizes are drawn, as those of patches are, have a little
    less: 1 % is allowed.
    """
    groups = torch.arange(ROWS) % NUMBER
    if sizes == "drawn":
        groups = torch.randint(NUMBER, (ROWS,))
    shared = torch.randn(SIMULATIONS, NUMBER, dtype=torch.float64)[:, groups]
    rows = shared + torch.randn(SIMULATIONS, ROWS, dtype=torch.float64)
    quantile = 2.0010  # of Student's t, 97.5 %, 59 degrees of freedom

    def held(error: torch.Tensor) -> float:
        return float((rows.mean(dim=1).abs() < quantile * error).double().mean())

    chance = 4 * math.sqrt(0.95 * 0.05 / SIMULATIONS)
    slack = {"equal": 0.0, "drawn": 0.01}[sizes]
    assert 0.95 - chance - slack < held(standard_error(rows, groups)) < 0.95 + chance
    assert held(standard_error(rows)) < 0.65  # less than a fifth of the mean's variance is seen


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (None, None, True),
        (GROUPS, GROUPS.clone(), True),
        (GROUPS, GROUPS.flip(0), False),
        (GROUPS, GROUPS[:5], False),
        (GROUPS, None, False),
        (None, GROUPS, False),
    ],
)
def test_groups_are_the_same_row_by_row(one, other, same):
    assert same_groups(one, other) is same


def test_independent_rows_need_no_words():
    assert clustered(None) == ""
    assert clustered(1200) == ", clustered by 1,200 groups"
