"""Models whose files are changed, and a limit on memory while they are loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.hostile import Files, little_memory
from support.small_models import make

from impflow_zoo import ResFlow
from impflow_zoo.models.filenames import CONFIG, GOLDEN, WEIGHTS
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.image_config import ImageConfig


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A model of a table; it names no checksum, so that weights are looked at whatever they are."""
    torch.manual_seed(0)
    return _saved(make(blocks=1, context_features=1), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A model of images, likewise."""
    torch.manual_seed(0)
    config = ImageConfig(channels=1, image_size=(2, 2), blocks=(1, 1), width=2)
    return _saved(ResFlow(config).eval(), tmp_path_factory.mktemp("model"))


def _saved(model: FlowModel, folder: Path) -> Files:
    model.save_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text())
    del config["weights"]
    contents = {name: (folder / name).read_bytes() for name in (WEIGHTS, GOLDEN)}
    return Files({CONFIG: json.dumps(config).encode(), **contents})


@pytest.fixture(scope="module", autouse=True)
def _little_memory() -> Iterator[None]:
    with little_memory():
        yield
