"""The lead of one model over another, with its error."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from paired import mean_and_error
from support.checkout import CHECKOUT


def test_mean_and_error_of_known_differences():
    mean, error = mean_and_error(torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64))
    assert mean == 3
    assert error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))


def test_the_largest_differences_can_be_left_out():
    differences = torch.tensor([1.0, -9.0, 2.0, 8.0, 3.0], dtype=torch.float64)
    assert mean_and_error(differences, without=2) == (2, pytest.approx(1 / math.sqrt(3)))


def test_a_model_is_level_with_itself():
    """The seed of the rounding noise is the same for both models."""
    script, name = str(CHECKOUT / "benchmarks" / "paired.py"), "impflow-power-plant"
    command = [sys.executable, script, name, name]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "+0.0000 +- 0.0000 nats, n = 946\n"
