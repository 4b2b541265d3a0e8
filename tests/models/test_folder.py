"""A model's folder: one of three places, replaced as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.small_models import make

from impflow_zoo.models.folder import CONFIG, RESULTS, WEIGHTS, ModelFolder


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    make().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / RESULTS).write_text("[]")
    return ModelFolder.open(tmp_path / "model")


def contents(folder: ModelFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.iterdir()}


def test_files_change_deleted_ones_among_them(folder):
    with folder.changed() as draft:
        assert contents(draft) == contents(folder)
        assert draft.path.name == folder.path.name
        draft.replace({RESULTS: None, "notes": b"new"})
        assert folder.has(RESULTS)
    assert (folder.path / "notes").read_bytes() == b"new"
    assert not folder.has(RESULTS)
    assert folder.config().model == "ImpFlow"


def change(folder: ModelFolder, end: Callable[[], object]) -> None:
    with folder.changed() as draft:
        draft.replace({WEIGHTS: b"others", CONFIG: None})
        end()


def test_a_change_that_fails_leaves_the_folder_as_it_was(folder):
    before = contents(folder)
    with pytest.raises(ZeroDivisionError):
        change(folder, lambda: 1 / 0)
    assert contents(folder) == before


def test_a_disk_that_is_full_at_the_end_leaves_the_folder_as_it_was(folder, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = contents(folder)
    with pytest.raises(OSError, match="No space left"):
        change(folder, lambda: monkeypatch.setattr(os, "fsync", full))
    assert contents(folder) == before


def test_what_somebody_edits_meanwhile_stays(folder):
    with folder.changed() as draft:
        draft.replace({"notes": b"new"})
        folder.replace({RESULTS: b"[ ]"})
    assert (folder.path / RESULTS).read_bytes() == b"[ ]"
    assert (folder.path / "notes").read_bytes() == b"new"
