"""The mixture of models: its density, its samples, what it refuses."""

from __future__ import annotations

import pytest
import torch
from support.small_models import make, rows

from impflow_zoo import Ensemble, ImageConfig, ResFlow
from impflow_zoo.models.fields import ModelError

NAMES = {"columns": ("a", "b"), "context_columns": ("t",)}


def test_its_density_is_the_mean_of_those_of_its_models():
    models, x = [make(columns=("a", "b")) for _ in range(3)], rows()
    ensemble = Ensemble(models)
    expected = torch.stack([model.log_prob(x).exp() for model in models]).mean(dim=0).log()
    torch.testing.assert_close(ensemble.log_prob(x), expected)
    assert ensemble.columns == ("a", "b")


def test_samples_come_from_all_of_its_models():
    models = [make(), make()]
    with torch.no_grad():
        models[1].transform.get_buffer("_transforms.0._shift").sub_(1000)
    drawn = Ensemble(models).sample(400, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (400, 2)
    assert 140 < int((drawn[:, 0] > 500).sum()) < 260


def test_contexts_and_frames():
    ensemble = Ensemble([make(**NAMES), make(**NAMES)])
    frame = ensemble.sample(3, torch.tensor([[0.5], [1.5]]), as_frame=True)
    assert list(frame.columns) == ["a", "b", "t"]
    assert frame["t"].tolist() == [0.5] * 3 + [1.5] * 3
    assert ensemble.log_prob(frame).shape == (6,)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda: [], "an ensemble of no models"),
        (lambda: [make(columns=("a", "b")), make(columns=("b", "a"))], "models of other columns"),
        (lambda: [make(columns=("a", "b")), make(**NAMES)], "models of other columns"),
        (
            lambda: [ResFlow(ImageConfig(image_size=(4, 4), blocks=(1,), width=2))],
            "models of tables, not ResFlow",
        ),
    ],
)
def test_models_that_do_not_belong_together_are_refused(models, message):
    with pytest.raises(ModelError, match=message):
        Ensemble(models())
