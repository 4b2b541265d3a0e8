"""Saves that are killed, or that meet: a folder holds the old files or the new ones."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from support.killed import kill_at_every_step
from support.small_models import make

from impflow_zoo import create_model
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import RESULTS, TRAINING, WEIGHTS
from impflow_zoo.models.folder import ConfigFile, ModelFolder
from impflow_zoo.models.writing import finish_save, write_together, write_whole

JOURNAL = ".impflow-zoo-save"
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
Files = dict[str, bytes]


def contents(folder: Path) -> Files:
    """All files, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shown(folder: Path) -> Files:
    """All files but hidden ones, which a killed save may leave for the next one."""
    return {name: found for name, found in contents(folder).items() if not name.startswith(".")}


@pytest.fixture
def sets(folder, tmp_path) -> tuple[Files, Files]:
    """The files of two models: `folder` holds the first; a save of the second deletes one."""
    make(dtype=torch.float32, seed=1).save_pretrained(tmp_path / "other")
    (folder / RESULTS).write_bytes(b"old")
    return contents(folder), {**contents(tmp_path / "other"), TRAINING: b"new"}


def save(folder: Path, files: Files) -> None:
    """The files and no others."""
    gone = dict.fromkeys(shown(folder).keys() - files.keys())
    write_together(folder, {**gone, **files})


@forks
def test_a_killed_save_leaves_the_old_files_or_the_new_ones(folder, sets):
    found = []
    for _ in kill_at_every_step(lambda: save(folder, sets[1])):
        create_model(folder)
        found.append(sets.index(shown(folder)))
        save(folder, sets[0])
        assert contents(folder) == sets[0]  # and nothing else is left
    assert contents(folder) == sets[1]
    assert len(found) > 20
    assert set(found) == {0, 1}
    assert found == sorted(found)  # new for good once it is


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> tuple[Path, Files]:
    """A folder whose save was killed when it was sure to happen, and what is to be in it."""
    folder, other = (tmp_path_factory.mktemp(name) for name in ("saved", "other"))
    make(dtype=torch.float32).save_pretrained(folder)
    make(dtype=torch.float32, seed=1).save_pretrained(other)
    (folder / RESULTS).write_bytes(b"old")
    files = {**contents(other), TRAINING: b"new"}
    for _ in kill_at_every_step(lambda: save(folder, files), every=3):
        if (folder / JOURNAL).exists():
            break
    return folder, files


@pytest.fixture
def killed(committed, tmp_path) -> tuple[Path, Files]:
    """A copy of it."""
    return shutil.copytree(committed[0], tmp_path / "killed"), committed[1]


@forks
def test_who_finishes_a_killed_save_may_be_killed_too(killed):
    folder, files = killed
    deaths = len([*kill_at_every_step(lambda: finish_save(folder))])
    assert deaths > 3
    assert contents(folder) == files


@forks
@pytest.mark.parametrize(
    "opened",
    [
        lambda folder: create_model(folder),
        lambda folder: ModelFolder(folder).has(RESULTS),
        lambda folder: write_whole(folder / "notes", b"mine"),
    ],
    ids=["loaded", "looked at", "written to"],
)
def test_whoever_opens_the_folder_finishes_a_killed_save(opened, killed):
    folder, files = killed
    opened(folder)
    assert {**contents(folder), "notes": b"mine"} == {**files, "notes": b"mine"}


@forks
def test_a_single_file_is_old_or_new_as_well(tmp_path):
    path = tmp_path / "checkpoint"
    found = []
    write_whole(path, b"old")
    for _ in kill_at_every_step(lambda: write_whole(path, b"new")):
        found.append(path.read_bytes())
        write_whole(path, b"old")
        assert contents(tmp_path) == {"checkpoint": b"old"}
    assert [*dict.fromkeys(found)] == [b"old", b"new"]


def test_a_symbolic_link_in_the_folder_of_a_stranger_is_not_followed(tmp_path):
    target, link = tmp_path / "mine", tmp_path / "training.json"
    target.write_bytes(b"mine")
    link.symlink_to(target)
    write_whole(link, b"new")
    assert (target.read_bytes(), link.read_bytes()) == (b"mine", b"new")


def test_a_save_waits_for_one_that_is_under_way(tmp_path, monkeypatch):
    """Its temporary files stay, and the folder does not hold a mixture afterwards."""
    reached, go_on = threading.Event(), threading.Event()

    def stopped(descriptor: int, flush: Callable[[int], None] = os.fsync) -> None:
        reached.set()
        go_on.wait(timeout=60)
        flush(descriptor)

    def files(content: bytes) -> Files:
        return dict.fromkeys([WEIGHTS, TRAINING], content)

    def started(content: bytes) -> threading.Thread:
        thread = threading.Thread(target=write_together, args=[tmp_path, files(content)])
        thread.start()
        return thread

    monkeypatch.setattr(os, "fsync", stopped)
    first = started(b"first")
    reached.wait(timeout=60)
    second = started(b"second")
    second.join(timeout=0.2)
    assert second.is_alive()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]  # a temporary one
    go_on.set()
    for thread in (first, second):
        thread.join(timeout=60)
    assert contents(tmp_path) == files(b"second")


def test_a_model_is_read_whole_while_another_is_saved(folder, sets, monkeypatch):
    weights, meanwhile = ModelFolder.weights, [lambda: save(folder, sets[1])]

    def late(self: ModelFolder, stated: ConfigFile) -> dict[str, torch.Tensor]:
        if meanwhile:
            meanwhile.pop()()
        return weights(self, stated)

    monkeypatch.setattr(ModelFolder, "weights", late)
    expected = load(sets[1][WEIGHTS])
    found = create_model(folder).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize(
    "journal",
    [b"", b"[]", b'{"": true}', b'{"../mine": false}', b'{"mine": false}', b"[" * 100_000],
    ids=["empty", "no object", "no name", "elsewhere", "no file of a model", "deep"],
)
def test_a_journal_that_no_save_wrote_is_refused(journal, folder):
    mine = [folder.parent / "mine", folder / "mine"]
    for path in mine:
        path.write_text("mine")
    (folder / JOURNAL).write_bytes(journal)
    with pytest.raises(ModelError, match="save is damaged: delete it, and save"):
        create_model(folder)
    assert all(path.read_text() == "mine" for path in mine)
