"""Short runs of training, and what two of them have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.small_models import config

from impflow_zoo import ImpFlow, training
from impflow_zoo.data import open_toy
from impflow_zoo.models.filenames import CHECKPOINT, LOG, WEIGHTS
from impflow_zoo.training import Trainer
from impflow_zoo.training.recipe import TrainingSettings


def train(recipe: Path, out: Path, **options: Any) -> dict[str, Any]:
    return training.train(recipe, out=out, progress=False, **options)


def log(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    lines = (folder / LOG).read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clocks = {"seconds", "rows_per_second"}
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]


def assert_same_run(folder: Path, reference: Path) -> None:
    """Weights, averages, optimizer, generator, the model kept and the log, bit by bit."""
    for name in (CHECKPOINT, WEIGHTS):
        own, other = load_file(folder / name), load_file(reference / name)
        assert own.keys() == other.keys()
        for key, tensor in own.items():
            assert torch.equal(tensor, other[key]), key
    assert timeless(log(folder)) == timeless(log(reference))


def trainer(folder: Path, model: Any = None, **settings: Any) -> Trainer:
    """A trainer in the plane, ready to step, its rate constant and without warm-up."""
    plain = {"warmup_steps": 0, "final_learning_rate": None, "batch_size": 32, "log_every": 1}
    data, validation = open_toy("moons", 100), open_toy("moons", 50, seed=1)
    made = Trainer(
        model or ImpFlow(config(blocks=1, hidden_features=(8,))),
        TrainingSettings(**{**plain, **settings}),
        data,
        validation,
        folder,
        progress=False,
    )
    made.prepare()
    return made
