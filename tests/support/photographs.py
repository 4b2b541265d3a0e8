"""Made-up photographs, and sets of them as the Hub lays them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def photograph(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Colours with the correlations of neighbouring pixels: a box blur of noise, plus noise."""
    noise = rng.standard_normal((height + 4, width + 4, 3))
    smooth = sum(noise[i : i + height, j : j + width] for i in range(5) for j in range(5)) / 5
    return np.clip(128 + 40 * smooth + 4 * rng.standard_normal(smooth.shape), 0, 255).astype("u1")


def save(folder: Path, **splits: list[np.ndarray]) -> str:
    """A folder of photographs in parquet, as the Hub lays it out, losslessly coded."""
    datasets = pytest.importorskip("datasets")
    folder.mkdir()
    for split, arrays in splits.items():
        images = [pytest.importorskip("PIL.Image").fromarray(a) for a in arrays]
        features = datasets.Features({"image": datasets.Image()})
        made = datasets.Dataset.from_dict({"image": images}, features=features)
        made.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return str(folder)
