"""A model that is loaded by its id on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support.small_models import rows

__all__ = ["REPO", "expected", "load"]

REPO = "zoo/small"


def load(cache: str | None, model: str = REPO, **options: Any) -> list[float]:
    """Log-densities of a loaded model; runs in the client's process."""
    from impflow_zoo import create_model

    torch.manual_seed(0)
    return create_model(model, cache_dir=cache, **options).log_prob(rows()).tolist()


def expected(files: dict[str, bytes], folder: Path) -> list[float]:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return load(None, str(folder))
