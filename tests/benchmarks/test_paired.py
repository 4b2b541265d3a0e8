"""The lead of one model over another, with its error."""

from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from paired import differences, mean_and_error
from support.checkout import CHECKOUT

from impflow_zoo.data import DataError


def test_mean_and_error_of_known_differences():
    mean, error = mean_and_error(torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64))
    assert mean == 3
    assert error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))


def test_the_largest_differences_can_be_left_out():
    values = torch.tensor([1.0, -9.0, 2.0, 8.0, 3.0], dtype=torch.float64)
    assert mean_and_error(values, without=2) == (2, pytest.approx(1 / math.sqrt(3)))
    for too_many in (-1, 4):
        with pytest.raises(DataError, match=f"{too_many} of 5 rows cannot be left out"):
            mean_and_error(values, without=too_many)


@pytest.mark.parametrize(("metric", "sign"), [("log_likelihood", 1), ("bits", -1)])
def test_a_positive_lead_means_that_the_first_model_is_better(metric, sign):
    first, second = (
        SimpleNamespace(metric=metric, n=2, per_row=torch.tensor([value, 3.0])) for value in (5, 4)
    )
    assert differences(first, second).tolist() == [sign, 0]
    with pytest.raises(DataError, match="not scored on the same rows"):
        differences(first, SimpleNamespace(metric=metric, n=3, per_row=torch.zeros(3)))


def test_a_model_is_level_with_itself():
    """The seed of the rounding noise is the same for both models."""
    script, name = str(CHECKOUT / "benchmarks" / "paired.py"), "impflow-power-plant"
    command = [sys.executable, script, name, name]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "+0.0000 +- 0.0000 nats, n = 946\n"
