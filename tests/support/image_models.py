"""Small models of images: their bounds are active, and ActNorm has seen a batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from impflow_zoo import ImageConfig, ImpFlow
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.published import PublishedImageConfig

MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "factor-out": {"factor_out": True},
    "fully-connected": {"fc_blocks": 2, "fc_hidden": (8, 8)},
    "factor-out-fully-connected": {"factor_out": True, "fc_blocks": 1, "fc_hidden": (8,)},
    "dense": {"net": "dense", "activation": "clipswish"},
    "whitened": {"whiten": True},
    "whitened-factor-out": {"whiten": True, "factor_out": True},
    "no-actnorm": {"actnorm": False, "preactivation": False},
    "five-bit-grey": {"bits": 5, "channels": 1},
    "variational": {"dequantisation": "variational"},
    "variational-five-bit-grey": {"dequantisation": "variational", "bits": 5, "channels": 1},
}


def make(
    name: str = "plain", kind: type[FlowModel] = ImpFlow, size: int = 4, **options: Any
) -> FlowModel:
    """A small trained-looking model in float64 whose bounds are active."""
    settings = {
        "image_size": (size, size),
        "blocks": (1, 1),
        "width": 6,
        "lipschitz": 0.8,
        **MODELS[name],
        **options,
    }
    own = settings.keys() <= {field.name for field in dataclasses.fields(ImageConfig)}
    model = kind((ImageConfig if own else PublishedImageConfig)(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2).add_(0.1 * torch.randn_like(parameter))
    model.train()
    labels = torch.zeros(8, 1) if model.config.classes else None
    model.log_prob(torch.rand(8, *model.config.shape), labels)  # ActNorm learns from it
    return model.double().eval()


def draw(model: FlowModel, n: int = 3) -> Tensor:
    return torch.rand(n, *model.config.shape, dtype=torch.float64)


def raw(model: FlowModel, n: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, *model.config.shape), dtype=torch.uint8)
