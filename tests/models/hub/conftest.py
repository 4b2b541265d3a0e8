"""A Hub on 127.0.0.1, and processes with the real client that talk to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.client_process import Client, client
from support.loopback_hub import Hub
from support.small_models import make

from impflow_zoo import ResFlow


@pytest.fixture(scope="package")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(hub: Hub) -> None:
    hub.repositories.clear()
    hub.faults.clear()
    hub.requests.clear()


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="package")
def online(hub: Hub, home: Path) -> Iterator[Client]:
    with client(hub.environment(home)) as process:
        yield process


@pytest.fixture(scope="package")
def offline(hub: Hub, home: Path) -> Iterator[Client]:
    with client(hub.environment(home, HF_HUB_OFFLINE="1")) as process:
        yield process


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """The files of two models of one shape."""
    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("model")
        make(ResFlow).save_pretrained(folder)
        folders.append({f.name: f.read_bytes() for f in folder.iterdir()})
    return folders
