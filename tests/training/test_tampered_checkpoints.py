"""Checkpoints that no run has written: one error names the file, and nothing is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from support.runs import train
from support.small_models import write_recipe

from impflow_zoo.models.filenames import CHECKPOINT
from impflow_zoo.training.checkpoint import CheckpointError

ABSENT = object()
STATES: dict[str, dict[str, Any]] = {
    "a text for a step": {"step": "x"},
    "a step before the first": {"step": -5},
    "a text for a value": {"best": "x"},
    "a value that is no number": {"best": float("nan")},
    "a text for seconds": {"seconds": "x"},
    "a text for a curve": {"curve": "x"},
    "a point of two numbers": {"curve": [[1, 2]]},
    "a text for the hardware": {"hardware": "x"},
    "facts that are none": {"before": {"a": 1}},
    "figures that no step has": {"unlogged": [{"a": 1}]},
    "figures that are texts": {"unlogged": [5]},
    "a size below zero": {"log_size": -1},
    "no rows": {"data": ABSENT},
    "no size of the log": {"log_size": ABSENT},
    "no stage": {"stage": ABSENT},
    "no curve": {"curve": ABSENT},
}
TEXTS = {"a list": "[1]", "a number": "5", "nothing": "{}", "too deep": "[" * 100_000}
TENSORS = {
    "weights that are no numbers": ("model/", lambda old: torch.full_like(old, torch.nan)),
    "an average without a bound": ("averaged/", lambda old: torch.full_like(old, torch.inf)),
    "moments of another shape": ("optimizer/", lambda old: torch.zeros(old.numel() + 1)),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe, and the folder of a run of one step."""
    folder = tmp_path_factory.mktemp("begun")
    recipe = write_recipe(folder)
    train(recipe, folder / "run", max_minutes=0.0)
    return recipe, folder / "run"


def refused(begun: tuple[Path, Path], folder: Path, change: Any) -> None:
    """A changed checkpoint is refused by its name, and no other file changes."""
    recipe, run = begun
    shutil.copytree(run, folder)
    with safe_open(run / CHECKPOINT, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        state = file.metadata()["state"]
    tensors, state = change(tensors, state)
    (folder / CHECKPOINT).write_bytes(save(tensors, metadata={"state": state}))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match=CHECKPOINT) as caught:
        train(recipe, folder, resume=True)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("changes", STATES.values(), ids=STATES)
def test_values_are_checked(changes, begun, tmp_path):
    def change(tensors: Any, state: str) -> Any:
        changed = {**json.loads(state), **changes}
        return tensors, json.dumps({k: v for k, v in changed.items() if v is not ABSENT})

    refused(begun, tmp_path / "run", change)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_no_state_is_refused(text, begun, tmp_path):
    refused(begun, tmp_path / "run", lambda tensors, _: (tensors, text))


@pytest.mark.parametrize(("part", "new"), TENSORS.values(), ids=TENSORS)
def test_tensors_are_checked(part, new, begun, tmp_path):
    def change(tensors: dict[str, torch.Tensor], state: str) -> Any:
        key = next(k for k, v in tensors.items() if k.startswith(part) and v.dim())
        return {**tensors, key: new(tensors[key])}, state

    refused(begun, tmp_path / "run", change)
