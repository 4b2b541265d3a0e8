"""Staged folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import staged_folder


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of one name, an older and a newer version."""
    return [staged_folder.stage(tmp_path_factory.mktemp("zoo") / "tiny", seed) for seed in range(2)]


@pytest.fixture
def folder(originals: list[Path], tmp_path: Path) -> Path:
    return shutil.copytree(originals[0], tmp_path / "tiny")
