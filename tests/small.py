"""Small models for tests: their bounds are active, and no step of them is the identity."""

from __future__ import annotations

import torch
from blocks import tighten
from nflows.transforms import ActNorm

from impflow_zoo import ImpFlow, TabularConfig
from impflow_zoo.models.flow import FlowModel

MEAN, STD = 3.0, 0.5


def config(**settings: object) -> TabularConfig:
    """A config of two blocks in the plane, but for the settings given."""
    plane = {"features": 2, "blocks": 2, "hidden_features": (8, 8), "lipschitz": 0.8}
    return TabularConfig(**{**plane, **settings})


def make(
    kind: type[FlowModel] = ImpFlow, *, dtype: torch.dtype = torch.float64, **settings: object
) -> FlowModel:
    """A model in evaluation mode that looks as if it had been trained."""
    model = kind(config(**settings))
    tighten(model)
    model.fit_preprocessing(MEAN + STD * torch.randn(100, model.config.features))
    with torch.no_grad():
        for step in model.modules():
            if isinstance(step, ActNorm):
                step.initialized.fill_(value=True)
                step.log_scale.normal_(std=0.3)
                step.shift.normal_(std=0.3)
    return model.to(dtype).eval()


def rows(n: int = 6, features: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Data of the kind that `make` has standardised for."""
    return MEAN + 2 * STD * torch.randn(n, features, dtype=dtype)
