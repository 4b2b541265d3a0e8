"""Columns whose differences a model's type rounds away: users are warned of them."""

from __future__ import annotations

import warnings

import pytest
import torch

from impflow_zoo import LinearGaussian, LinearGaussianConfig, NumericalWarning

RANDOM = torch.Generator().manual_seed(0)
START = 2.6e6 * torch.rand(500, 1, generator=RANDOM, dtype=torch.float64)
END = START + 600 + 60 * torch.randn(500, 1, generator=RANDOM, dtype=torch.float64)


def gaussian(*columns: str, given: tuple[str, ...] = ()) -> LinearGaussian:
    config = LinearGaussianConfig(len(columns), columns=columns, context_columns=given)
    return LinearGaussian(config)


def test_a_small_difference_of_large_columns_is_warned_of():
    trips = torch.cat((START, END), dim=1)
    model = gaussian("start", "end")
    message = r"column (start|end) lies far from zero, .*float32 rounds them by 3.*e\+00 .*offset"
    with pytest.warns(NumericalWarning, match=message):
        model.fit_preprocessing(trips + 1.6e9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit_preprocessing(trips)
        model.double().fit_preprocessing(trips + 1.6e9)


def test_so_is_one_between_a_column_and_its_context():
    with pytest.warns(NumericalWarning, match="column end lies far from zero"):
        gaussian("end", given=("start",)).fit_preprocessing(END + 1.6e9, START + 1.6e9)


def test_functions_of_other_columns_are_not():
    """Nothing is left of them that rounding could spoil."""
    rows = torch.cat((START, 2 * START, START > 1e6, START <= 1e6, 1e3 + END - START), dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gaussian("a", "b", "c", "d", "e").fit_preprocessing(rows)
        wide = LinearGaussian(LinearGaussianConfig(300))
        wide.fit_preprocessing(START[:20] * torch.arange(1.0, 301.0))
