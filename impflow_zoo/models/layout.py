"""The files of a model: their names, where they are, and what is safe to read from them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from impflow_zoo.models.config import ModelError
from impflow_zoo.models.hub import HubFiles

__all__ = [
    "CARD",
    "CHECKPOINT",
    "CONFIG",
    "CURVE",
    "GOLDEN",
    "LOG",
    "PICTURE",
    "RECIPE",
    "RESULTS",
    "SCORES",
    "TEST_ROWS",
    "TRAINING",
    "WEIGHTS",
    "Files",
    "WeightsError",
    "open_files",
    "optional_path",
    "read_safetensors",
    "readable",
]

CONFIG, RECIPE, CARD = "config.json", "recipe.yaml", "README.md"
LOG = "log.jsonl"  # of a training run
WEIGHTS, GOLDEN, TEST_ROWS = "model.safetensors", "golden.safetensors", "test.parquet"
TRAINING, RESULTS, SCORES = "training.json", "results.json", "scores.safetensors"
PICTURE, CURVE = "density.png", "curve.png"
CHECKPOINT = "checkpoint.safetensors"  # of a training run


class WeightsError(ModelError):
    """Weights are missing, incomplete, of another shape, damaged, or not the recorded ones."""


class Files(Protocol):
    """The files of one model, by name."""

    @property
    def name(self) -> str:
        """What messages call the model: its folder or Hub id."""

    def path(self, filename: str) -> Path:
        """A local path of the file.

        Raises:
            FileNotFoundError or EntryNotFoundError: if the model has no such file.
        """

    def has(self, filename: str) -> bool:
        """Whether the model has such a file, found out without fetching it."""


@dataclass(frozen=True)
class _Folder:
    folder: Path

    @property
    def name(self) -> str:
        return str(self.folder)

    def path(self, filename: str) -> Path:
        path = self.folder / filename
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder} has no {filename}")
        return path

    def has(self, filename: str) -> bool:
        return (self.folder / filename).is_file()


def open_files(
    model: str | os.PathLike[str], *, revision: str | None = None, **options: Any
) -> Files:
    """The files of a local folder or of a Hub repository (`id` or `id@revision`).

    Arguments:
        model: folder or id.
        revision: branch, tag or commit on the Hub.
        options: as in `HubFiles`.

    Raises:
        ModelError: if it is neither.
    """
    name = os.fspath(model)
    if os.path.isdir(name):
        if revision is not None:
            raise ModelError(f"{name} is a folder and has no revisions: leave revision= out")
        return _Folder(Path(name))
    if "@" in name:
        name, asked = name.rsplit("@", 1)
        if revision not in (None, asked):
            raise ModelError(f"{name}@{asked} names a revision: leave revision={revision!r} out")
        revision = asked
    return HubFiles(name, revision=revision, **options)


def optional_path(files: Files, filename: str) -> Path | None:
    """The path of a file the model may lack.

    Raises:
        LocalEntryNotFoundError: if the Hub cannot be asked and the cache does not know.
    """
    try:
        return files.path(filename)
    except LocalEntryNotFoundError:
        raise
    except (FileNotFoundError, EntryNotFoundError):
        return None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        WeightsError: if the file is truncated or not in that format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, OSError) as error:
        raise WeightsError(
            f"{path} is truncated or damaged: {readable(error)}; take a whole copy of it"
        ) from None


def readable(problem: object) -> str:
    """A problem in one line that fits a screen, whatever the file put into it."""
    text = "".join(c if c.isprintable() else " " for c in str(problem))
    return text if len(text) <= 300 else f"{text[:300]}..."
