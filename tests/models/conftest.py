"""A model and the folder that it was saved to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.small_models import make

from impflow_zoo.models.flow import FlowModel


@pytest.fixture
def model() -> FlowModel:
    return make(dtype=torch.float32)


@pytest.fixture
def folder(model, tmp_path) -> Path:
    """A folder that a model was saved to."""
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"
