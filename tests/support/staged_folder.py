"""A folder as `impflow-zoo stage` leaves it: small, and scored on a toy."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from support.small_models import make

from impflow_zoo import ResFlow
from impflow_zoo.models.config import to_json
from impflow_zoo.models.filenames import SCORES
from impflow_zoo.zoo import staging

FACTS = {
    "steps": 10,
    "rows_seen": 1000,
    "minutes": 0.1,
    "hardware": "one CPU core",
    "skipped_steps": 0,
    "unconverged_fraction": 0.0,
    "curve": [[100, 1.0, -3.0], [1000, 6.0, -2.0]],
    "parameters": 130,
}


def stage(folder: Path, seed: int = 0, data_name: str = "moons") -> Path:
    """Make the folder, with everything a published model must have; returns it."""
    torch.manual_seed(seed)
    model = make(ResFlow, blocks=1)
    model.save_pretrained(folder)
    recipe = {
        "model": "ResFlow",
        "config": json.loads(json.dumps(to_json(model.config))),
        "data": {"dataset": "toy:moons"},
        "card": {
            "summary": "A small model.",
            "data_name": data_name,
            "data_license": "none: the data are made up",
            "data_citation": "Made by this package.",
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "training.json").write_text(json.dumps(FACTS))
    staging.stage(None, folder)
    return folder


def sent(folder: Path) -> list[Path]:
    """What is published of a folder: scores of rows stay in the repository."""
    return [path for path in folder.iterdir() if path.name != SCORES]
