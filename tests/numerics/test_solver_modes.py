"""Roots under `torch.inference_mode`, and in types that are too narrow."""

from __future__ import annotations

import pytest
import torch

from impflow_zoo import Solver


@pytest.mark.parametrize("method", ["auto", "newton"])
def test_roots_are_found_under_inference_mode(method):
    with torch.inference_mode():
        y = torch.randn(50, 2)
        solution = Solver(method).solve(lambda x: 3 * torch.sin(3 * x), y, throw=False)
        easy = Solver(method).solve(lambda x: 0.5 * x.sin(), y)
    assert solution.value.shape == (50, 2)
    assert bool(easy.converged.all())


def test_half_precision_is_refused_by_name():
    with pytest.raises(ValueError, match=r"torch.float16: rows of float32 or float64"):
        Solver().solve(torch.sin, torch.zeros(2, 3).half())
