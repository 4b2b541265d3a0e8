"""Small models for tests: their bounds are active, and no step of them is the identity."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from nflows.transforms import ActNorm

from impflow_zoo import ImpFlow, TabularConfig
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.testing.case import tighten

MEAN, STD = 3.0, 0.5
CARD = {"summary": "A test.", "data_name": "toy moons", "data_license": "made by this package"}


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


def write_recipe(folder: Path, model: str = "ImpFlow", **sections: dict[str, object]) -> Path:
    """A recipe that trains one small block on a toy in a moment, but for the settings given.

    A config that says its kind stands for itself.
    """
    plane = {"kind": "tabular", "features": 2, "blocks": 1, "hidden_features": [8]}
    if "kind" in sections.get("config", {}):
        plane = {}
    short = {"steps": 4, "batch_size": 32, "validation_limit": 50, "checkpoint_minutes": 1000}
    recipe = {
        "model": model,
        "config": {**plane, **sections.get("config", {})},
        "data": {"dataset": "toy:moons", **sections.get("data", {})},
        "training": {**short, **sections.get("training", {})},
        "card": sections.get("card", CARD),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def write_image_recipe(folder: Path, dataset: str, **sections: dict[str, object]) -> Path:
    """A recipe that trains one block on the 8x8 images of a set, less the last two."""
    image = {"kind": "image", "image_size": [8, 8], "blocks": [1], "width": 4}
    short = {"steps": 8, "batch_size": 2, "log_every": 1, "validate_every": 4}
    held_out = {"dataset": dataset, "train": "test", "validation_rows": 2}
    recipe = {
        "model": "ResFlow",
        "config": {**image, "logdet": {"mode": "unbiased"}, **sections.get("config", {})},
        "data": {**held_out, **sections.get("data", {})},
        "training": {**short, **sections.get("training", {})},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
