"""What `--init-from` names: a model to start from, and what its training had cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import LocalEntryNotFoundError

from impflow_zoo.facts import TRAINING, TrainingFacts, read_log
from impflow_zoo.models.config import ModelError
from impflow_zoo.models.layout import RECIPE, Files, earlier_recipe, open_files, optional_path
from impflow_zoo.recipe import Recipe, differences, read_recipe
from impflow_zoo.registry import locate
from impflow_zoo.runlog import LOG

__all__ = ["Origin", "open_origin"]


@dataclass(frozen=True)
class Origin:
    """A model whose weights a training starts from.

    Arguments:
        files: the model's.
        facts: what its training cost; None if nothing says so, or if it was one of another model
            or on other data, which does not count.
        recipes: texts of the recipes that made it, in order; empty without facts.
    """

    files: Files
    facts: TrainingFacts | None = None
    recipes: tuple[bytes, ...] = ()

    @property
    def figures(self) -> dict[str, Any]:
        """For the log of a training that starts here."""
        if self.facts is None:
            return {"init_from": _public_name(self.files)}
        return {"before": asdict(self.facts)}


def open_origin(model: str, recipe: Recipe) -> Origin:
    """Open a model to start from.

    Arguments:
        model: a name of the zoo, a Hub id or a folder.
        recipe: of the training that is to start.

    Raises:
        ModelError: if there is no such model.
    """
    files = open_files(locate(model))
    try:
        known = _path(files, RECIPE)
        if known is None or not _same_task(read_recipe(known), recipe):
            return Origin(files)
        facts = _facts(files)
    except ModelError:  # files of another version, say: no reason not to take the weights
        return Origin(files)
    if facts is None:
        return Origin(files)
    earlier = [_path(files, earlier_recipe(n)) for n in range(1, len(facts.parts))]
    return Origin(files, facts, tuple(p.read_bytes() for p in (*earlier, known) if p is not None))


def _same_task(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes differ in nothing but how they train."""
    return all(name.startswith("training.") for name in differences(one, other))


def _facts(files: Files) -> TrainingFacts | None:
    """From a run's log, or from the file that staging made of it."""
    if (log := _path(files, LOG)) is not None:
        return read_log(log)
    if (path := _path(files, TRAINING)) is not None:
        return TrainingFacts.read(path.parent)
    return None


def _path(files: Files, name: str) -> Path | None:
    """A file that need not be there; nor need the Hub, if the weights are in its cache."""
    try:
        return optional_path(files, name)
    except LocalEntryNotFoundError:
        return None


def _public_name(files: Files) -> str:
    """A Hub id, or the last part of a folder's path: where it lies is nobody's business."""
    return files.name if not Path(files.name).is_dir() else Path(files.name).resolve().name
