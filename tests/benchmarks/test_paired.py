"""The lead of one model over another, with its error."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from paired import Lead, lead, main, refuse_other_columns
from support import image_models
from support.command_line import call
from support.small_models import make, write_recipe

from impflow_zoo import ResFlow
from impflow_zoo.data import DataError
from impflow_zoo.evaluation.standard_errors import standard_error


def scored(
    values: Any, groups: Any = None, metric: str = "log_likelihood", weights: Any = None
) -> Any:
    """What a lead takes of a `Result`."""
    rows = torch.as_tensor(values, dtype=torch.float64)
    groups, weights = (None if one is None else torch.tensor(one) for one in (groups, weights))
    return SimpleNamespace(
        metric=metric, n=len(rows), per_row=rows, row_groups=groups, row_weights=weights
    )


def over_zero(values: Any, groups: Any = None, without: int = 0) -> Lead:
    """The lead over a model that scores each row at zero."""
    zero = scored(torch.zeros(len(values)), groups)
    return lead([scored(values, groups)], [zero], without)


def test_mean_and_error_of_known_differences():
    found = over_zero([1.0, 2.0, 3.0, 6.0])
    assert (found.value, found.n, found.groups) == (3, 4, None)
    assert found.error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))


def test_differences_of_rows_in_groups_are_clustered():
    values, groups = [1.0, 2.0, 3.0, 6.0], [0, 0, 1, 1]
    found = over_zero(values, groups)
    assert (found.value, found.groups) == (3, 2)
    assert found.error == pytest.approx(math.sqrt(2 * (9 + 9)) / 4)


def test_differences_are_weighted_as_their_rows_are():
    weights = [1.0, 3.0]
    found = lead([scored([1.0, 3.0], weights=weights)], [scored([0.0, 0.0], weights=weights)])
    assert found.value == 2.5
    assert found.error == pytest.approx(math.sqrt(2 * (1.5**2 + 1.5**2)) / 4)
    with pytest.raises(DataError, match="rows of other weights"):
        lead([scored([1.0, 3.0], weights=weights)], [scored([0.0, 0.0])])


def test_the_largest_differences_can_be_left_out():
    values, groups = [1.0, -9.0, 2.0, 8.0, 3.0], [0, 1, 2, 3, 2]
    found = over_zero(values, without=2)
    assert (found.value, found.error, found.n) == (2, pytest.approx(1 / math.sqrt(3)), 3)
    clustered = over_zero(values, groups, without=2)
    assert (clustered.value, clustered.groups) == (2, 2)
    assert clustered.error == pytest.approx(math.sqrt(2 * (1 + 1)) / 3)
    for too_many in (-1, 4):
        with pytest.raises(DataError, match=f"{too_many} of 5 rows cannot"):
            over_zero(values, without=too_many)


@pytest.mark.parametrize(("metric", "sign"), [("log_likelihood", 1), ("bits", -1)])
def test_a_positive_lead_means_that_the_first_model_is_better(metric, sign):
    first, second = (scored([value, 3.0], metric=metric) for value in (5, 4))
    assert lead([first], [second]).value == sign / 2


def test_the_means_over_trainings_are_compared():
    """The error has the part of rows, of the mean differences, and that of trainings."""
    first = [scored([1.0, 4.0]), scored([3.0, 4.0]), scored([2.0, 1.0])]
    second = [scored([1.0, 1.0]), scored([1.0, 2.0])]
    found = lead(first, second)
    assert (found.value, found.trainings) == (2.5 - 1.25, (3, 2))
    rows = float(standard_error(torch.tensor([2.0 - 1.0, 3.0 - 1.5])))
    means = torch.tensor([2.5, 3.5, 1.5]), torch.tensor([1.0, 1.5])
    assert found.error == pytest.approx(
        math.sqrt(rows**2 + float(means[0].var()) / 3 + float(means[1].var()) / 2)
    )


def test_the_error_holds_where_trainings_vary_much():
    """Rows, groups and seeds by chance, no true lead: two errors hold it about as often as due.

    With three trainings of a side that is 88 % (Student's t, four degrees of freedom), and more
    where rows have a part in the error. Without the seeds it would be far less.
    """
    groups = [i % 30 for i in range(60)]
    held = []
    for _ in range(300):
        shared = torch.randn(60, dtype=torch.float64)
        own = [shared + 0.1 * torch.randn(60) + 0.3 * torch.randn(1) for _ in range(6)]
        found = lead([scored(x, groups) for x in own[:3]], [scored(x, groups) for x in own[3:]])
        held.append(found.level)
    chance = 4 * math.sqrt(0.88 * 0.12 / 300)
    assert sum(held) / 300 > 0.88 - chance


OTHERS = {
    "another number": (scored([1.0]), "not scored on the same rows"),
    "another metric": (scored([1.0, 2.0], [0, 1], "bits"), "not scored on the same rows"),
    "other groups": (scored([1.0, 2.0], [0, 0]), "scored on rows of other groups"),
    "no groups": (scored([1.0, 2.0]), "scored on rows of other groups"),
}


@pytest.mark.parametrize(("other", "message"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("side", [0, 1])
def test_only_scores_of_the_same_rows_are_compared(other, message, side):
    sides = [[scored([1.0, 2.0], [0, 1])], [scored([1.0, 2.0], [0, 1])]]
    sides[side].append(other)
    with pytest.raises(DataError, match=message):
        lead(*sides)


def test_only_models_of_the_same_columns_are_compared():
    one, turned = make(columns=("a", "b")), make(columns=("b", "a"))
    refuse_other_columns([one, turned])  # in any order
    refuse_other_columns([make(), make()])  # without names
    for other in (make(columns=("a", "c")), make()):
        with pytest.raises(DataError, match="different columns: a, b and "):
            refuse_other_columns([one, turned, other])


def test_only_images_of_the_same_bits_are_compared():
    refuse_other_columns([image_models.make(), image_models.make(kind=ResFlow)])
    with pytest.raises(DataError, match="values of 8 bits and 3x4x4 values of 5 bits"):
        refuse_other_columns([image_models.make(), image_models.make(bits=5)])


LEVEL = [(0.0, 0.0), (1.0, 0.51), (-1.0, 0.51), (1.0, math.nan)]


@pytest.mark.parametrize(("value", "error"), [*LEVEL, (1.0, 0.49), (-1.0, 0.49)])
def test_below_two_errors_a_lead_is_called_level(value, error):
    text = Lead(value, error, 9, None, (1, 1)).text("nats")
    assert text.endswith(": level") == ((value, error) in LEVEL)


def test_a_line_says_what_its_error_holds():
    found = Lead(0.3, 0.1, 900, 100, (3, 2))
    assert found.text("nats") == (
        "+0.3000 +- 0.1000 nats, n = 900, clustered by 100 groups, 3 against 2 trainings"
    )
    for trainings in ((1, 1), (3, 1)):
        assert "without the error of a single seed" in Lead(0, 0, 9, None, trainings).text("nats")


def test_all_models_are_scored_on_the_rows_of_the_first(tmp_path):
    model, folders = make(dtype=torch.float32), []
    for toy in ("moons", "checkerboard"):
        model.save_pretrained(tmp_path / toy)
        write_recipe(tmp_path / toy, data={"dataset": f"toy:{toy}"})
        folders.append(str(tmp_path / toy))
    assert call(main, "paired.py", *folders).out.startswith("+0.0000 +- 0.0000 nats")


def test_a_model_is_level_with_itself():
    """The seed of the rounding noise is the same for all models."""
    name = "impflow-power-plant"
    assert call(main, "paired.py", f"{name},{name}", name).out == (
        "+0.0000 +- 0.0000 nats, n = 946, 2 against 1 trainings, without the error of a single "
        "seed: level\n"
    )
