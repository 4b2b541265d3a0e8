"""A whole run, to compare others with."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs import train
from support.small_models import write_recipe

# Every kind of state a run has: fresh probes, averages, validations, lines of the log half due.
RUN = {
    "config": {"logdet": {"mode": "unbiased"}, "rounding": [0.1, 0.0]},
    "training": {
        "steps": 20,
        "log_every": 5,
        "validate_every": 6,
        "checkpoint_minutes": 0,
        "weight_decay": 0.1,
    },
}


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory) -> tuple[Path, Path]:
    """A recipe and the folder of its whole run."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder / "recipe", **RUN)
    train(recipe, folder / "whole")
    return recipe, folder / "whole"
