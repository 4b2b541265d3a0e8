"""Made-up images and photographs, and sets of them as the Hub lays them out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image


def photograph(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Colours with the correlations of neighbouring pixels: a box blur of noise, plus noise."""
    noise = rng.standard_normal((height + 4, width + 4, 3))
    smooth = sum(noise[i : i + height, j : j + width] for i in range(5) for j in range(5)) / 5
    return np.clip(128 + 40 * smooth + 4 * rng.standard_normal(smooth.shape), 0, 255).astype("u1")


def save(folder: Path, *, labels: Sequence[str] = (), **splits: list[np.ndarray]) -> str:
    """A folder of photographs in parquet, as the Hub lays it out, losslessly coded.

    Columns named in `labels` hold digits.
    """
    folder.mkdir()
    for split, arrays in splits.items():
        images = [Image.fromarray(a) for a in arrays]
        features = datasets.Features({"image": datasets.Image()})
        made = datasets.Dataset.from_dict({"image": images}, features=features)
        for label in labels:
            made = made.add_column(label, [i % 10 for i in range(len(arrays))])
        made.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return str(folder)


def encoded(array: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def image_set(
    folder: Path,
    arrays: list[np.ndarray | bytes],
    types: Mapping[str, Any] | None = None,
    **columns: list[Any],
) -> str:
    """A parquet file with a column of images; other columns are whole numbers but for `types`."""
    cells = [{"bytes": a, "path": None} if isinstance(a, bytes) else encoded(a) for a in arrays]
    numbers = {name: datasets.Value("int64") for name in columns}
    features = {"picture": datasets.Image(), **numbers, **(types or {})}
    data = datasets.Dataset.from_dict(
        {"picture": cells, **columns}, features=datasets.Features(features)
    )
    file = folder / "test.parquet"
    data.to_parquet(file)
    return str(file)


def pictures(n: int, shape: tuple[int, ...] = (8, 8, 3)) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(n)]
