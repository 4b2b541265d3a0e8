"""Rows that a model's type has too few digits to decode are said, where noise is far from zero."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from support import image_models, small_models
from torch import Tensor

from impflow_zoo import MonotoneFlow, NumericalWarning, create_model
from impflow_zoo.models import digits
from impflow_zoo.models.flow import FlowModel

SPLINES = "mixed-power-plant"  # whose first block is a spline


def far_rows(model: FlowModel) -> Tensor:
    """Rows 20 standard deviations from the mean of the training rows."""
    standardise = model.transform._transforms[0]
    x = 20 * torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    rows: Tensor = standardise.inverse(x.to(standardise._scale))[0]
    return rows


def error(model: FlowModel, back: Tensor, x: Tensor) -> float:
    """The largest error in standard deviations of a column."""
    return float(((back - x) * model.transform._transforms[0]._scale).abs().max())


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows are decoded again from now on, call by call."""
    sizes, walk = [], digits.walk

    def watched(transform: object, z: Tensor, *rest: object, **asked: object) -> object:
        sizes.append(len(z))
        return walk(transform, z, *rest, **asked)

    monkeypatch.setattr(digits, "walk", watched)
    return sizes


WAYS: dict[str, Callable[[FlowModel, Tensor], Tensor]] = {
    "decode": lambda model, z: model.decode(z),
    "transform.inverse": lambda model, z: model.transform.inverse(z)[0],
}


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_far_noise_is_warned_of_where_digits_are_lost(way: str) -> None:
    model, decode = create_model(SPLINES), WAYS[way]
    x = far_rows(model)
    z = model.encode(x)
    with pytest.warns(
        NumericalWarning,
        match=r"^in \d+ of 100 rows .*float32 .*use model.double\(\)$",
    ) as caught:
        back = decode(model, z)
    assert caught[0].filename == __file__
    assert error(model, back, x) > 5
    model.double()
    assert error(model, decode(model, model.encode(x.double())), x.double()) < 1e-3  # no warning


@torch.no_grad()
def test_contexts_and_copies_of_a_transform_are_checked_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_models.make(MonotoneFlow, context_features=1)
    again = decoded(monkeypatch)
    far = 100 * torch.randn(3, 2, dtype=torch.float64)
    context = torch.zeros(3, 1, dtype=torch.float64)
    copy.deepcopy(model).transform.inverse(far, context)
    pickle.loads(pickle.dumps(model.transform)).inverse(far, context)
    assert again == [3, 3]
    model.train().transform.inverse(far, context)
    assert again == [3, 3]


@torch.no_grad()
def test_samples_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, again = create_model(SPLINES), decoded(monkeypatch)
    model.sample(1000, generator=torch.Generator().manual_seed(0))
    assert not again
    model.sample(1000, temperature=50, generator=torch.Generator().manual_seed(0))
    assert again == [100]


@torch.no_grad()
def test_contractions_lose_no_digits_far_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_models.make(MonotoneFlow, dtype=torch.float32)
    again = decoded(monkeypatch)
    model.decode(100 * torch.randn(200, 2))  # without a warning
    assert again == [100]
    model.train().decode(100 * torch.randn(200, 2))
    image_models.make("no-actnorm").decode(100 * torch.randn(2, 48, dtype=torch.float64))
    assert len(again) == 1


def test_errors_are_measured_in_the_spread_of_the_training_rows() -> None:
    settings = {"columns": ("a", "b"), "bounds": {"b": [0.0, None]}}
    model = small_models.make(dtype=torch.float64, **settings)
    a, b = torch.randn(500, dtype=torch.float64), torch.randn(500, dtype=torch.float64)
    model.fit_preprocessing(torch.stack((7 + 3 * a, (0.1 * b).exp()), dim=1))
    spread = model.preprocessing.spread(model.transform)
    torch.testing.assert_close(spread, torch.tensor([3.0, 0.1]).double(), rtol=0.1, atol=0)
