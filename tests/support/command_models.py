"""Models that commands are called with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.small_models import make, write_recipe


@pytest.fixture(scope="session")
def plane(tmp_path_factory) -> Path:
    """A model of the plane with a recipe on moons."""
    folder = tmp_path_factory.mktemp("zoo") / "plane"
    make(dtype=torch.float32).save_pretrained(folder)
    write_recipe(folder)
    return folder


@pytest.fixture(scope="session")
def space(tmp_path_factory) -> Path:
    """A model of three named columns."""
    folder = tmp_path_factory.mktemp("zoo") / "space"
    make(features=3, columns=("a", "b", "c"), dtype=torch.float32).save_pretrained(folder)
    return folder
