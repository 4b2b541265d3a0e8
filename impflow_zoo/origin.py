"""What `--init-from` names: a model to start from, and what its training had cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import LocalEntryNotFoundError

from impflow_zoo.facts import TRAINING, TrainingFacts, read_log
from impflow_zoo.models.config import ModelError
from impflow_zoo.models.layout import RECIPE, Files, earlier_recipe, open_files, optional_path
from impflow_zoo.recipe import Recipe, fingerprint, read_recipe, with_seed
from impflow_zoo.registry import locate
from impflow_zoo.runlog import LOG

__all__ = ["Origin", "open_origin"]


@dataclass(frozen=True)
class Origin:
    """A model whose weights a training starts from.

    Arguments:
        files: the model's.
        facts: what its training cost; None if nothing says so, or if it was one of another class
            or on other data, which does not count.
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


def open_origin(model: str, recipe: Recipe, data: str) -> Origin:
    """Open a model to start from.

    Arguments:
        model: a name of the zoo, a Hub id or a folder.
        recipe: of the training that is to start.
        data: fingerprint of its rows.

    Raises:
        ModelError: if there is no such model, or if its recipe was changed since.
    """
    files = open_files(locate(model))
    path = _path(files, RECIPE)
    if path is None:
        return Origin(files)
    try:
        own, text = read_recipe(path), path.read_bytes()
        facts = _facts(files)
    except ModelError:  # of another version, or damaged: no reason not to take the weights
        return Origin(files)
    if facts is None or own.model != recipe.model or not _same_data(own, facts, recipe, data):
        return Origin(files)
    if facts.recipe and facts.recipe != fingerprint(own):
        raise ModelError(
            f"{path} was changed since the weights beside it were trained: put it back, "
            "and the new recipe into a file of another name"
        )
    if facts.seed != own.training.seed:
        text = with_seed(text, facts.seed)
    earlier = [_path(files, earlier_recipe(n)) for n in range(1, len(facts.parts))]
    known = [found.read_bytes() for found in earlier if found is not None]
    if len(known) < len(earlier):
        return Origin(files)
    return Origin(files, facts, (*known, text))


def _same_data(own: Recipe, facts: TrainingFacts, recipe: Recipe, data: str) -> bool:
    """Whether two trainings see the same rows: by these, or by their names if that is all."""
    if facts.data:
        return facts.data == data
    named = [(r.data.dataset, r.data.train, r.data.validation_rows) for r in (own, recipe)]
    return named[0] == named[1]


def _facts(files: Files) -> TrainingFacts | None:
    """From a run's log, or from the file that staging made of it."""
    if (log := _path(files, LOG)) is not None:
        return read_log(log)
    if (staged := _path(files, TRAINING)) is not None:
        return TrainingFacts.read(staged.parent)
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
