"""What `--init-from` names: a model to start from, and what its training had cost."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import LocalEntryNotFoundError

from impflow_zoo.facts import TRAINING, TrainingFacts, read_log
from impflow_zoo.models.config import ModelError
from impflow_zoo.models.layout import RECIPE, Files, open_files, optional_path
from impflow_zoo.recipe import Recipe, read_recipe, with_seed
from impflow_zoo.registry import locate
from impflow_zoo.runlog import LOG

__all__ = ["Origin", "open_origin"]


@dataclass(frozen=True)
class Origin:
    """A model whose weights a training starts from.

    Arguments:
        files: the model's.
        facts: what its training cost; None if nothing that can be read says so, or if it was one of
            another class or on other rows, which does not count.
        recipes: texts of the recipes that made it, in order, with their seeds; empty without facts.
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


def open_origin(model: str, recipe: Recipe, rows: str, data: str | None = None) -> Origin:
    """Open a model to start from.

    Arguments:
        model: a name of the zoo, a Hub id or a folder.
        recipe: of the training that is to start.
        rows: fingerprint of its rows.
        data: what the user named in place of the recipe's data set.

    Raises:
        ModelError: if there is no such model, or if its recipe was changed since.
    """
    files = open_files(locate(model))
    try:
        path = optional_path(files, RECIPE)
        facts = None if path is None else _facts(files)
        if path is None or facts is None:
            return Origin(files)
        own, text = read_recipe(path), path.read_bytes()
        same = facts.data == rows if facts.data else data is None and _same_names(own, recipe)
        if own.model != recipe.model or not same:
            return Origin(files)
        earlier = [_recipe(files, name) for name in facts.earlier_recipes]
    except (ModelError, LocalEntryNotFoundError) as error:  # no reason not to take the weights
        warnings.warn(
            f"what the training of {files.name} had cost is not known and does not count: {error}",
            stacklevel=2,
        )
        return Origin(files)
    if not facts.is_by(own):
        raise ModelError(
            f"{path} was changed since the weights beside it were trained: put it back, "
            "and the new recipe into a file of another name"
        )
    if facts.seed != own.training.seed:
        text = with_seed(text, facts.seed)
    return Origin(files, facts, (*earlier, text))


def _same_names(own: Recipe, recipe: Recipe) -> bool:
    """Whether two recipes name the same rows, where neither run says which it saw."""
    first, second = (replace(r.data, test="") for r in (own, recipe))
    return first.dataset is not None and first == second


def _facts(files: Files) -> TrainingFacts | None:
    """From a folder of the zoo or of a run, if it tells."""
    if (written := optional_path(files, TRAINING)) is not None:
        return TrainingFacts.read(written.parent)
    if (log := optional_path(files, LOG)) is not None:
        return read_log(log)
    return None


def _recipe(files: Files, name: str) -> bytes:
    """The recipe of an earlier run, which a model has that was trained in several."""
    path = optional_path(files, name)
    if path is None:
        raise ModelError(f"there is no {name}")
    return path.read_bytes()


def _public_name(files: Files) -> str:
    """A Hub id, or the last part of a folder's path: where it lies is nobody's business."""
    return files.name if not Path(files.name).is_dir() else Path(files.name).resolve().name
