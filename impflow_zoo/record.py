"""What a model's folder says of it, in one place: each file is read when it is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from impflow_zoo.facts import TrainingFacts
from impflow_zoo.lipschitz.certify import worst
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.folder import CONFIG, RECIPE, TRAINING, ConfigFile, ModelFolder
from impflow_zoo.recipe import Recipe, read_recipe
from impflow_zoo.results import Entry, published

__all__ = ["Record", "parameter_count", "records"]


@dataclass(frozen=True)
class Record:
    """What the folder of a model says.

    Arguments:
        folder: of the model.
    """

    folder: ModelFolder

    @property
    def name(self) -> str:
        """Name of the model."""
        return Path(os.path.abspath(self.folder.path)).name  # of a link, not of what it is to

    @cached_property
    def recipe(self) -> Recipe:
        """Its recipe."""
        return read_recipe(self.folder.path / RECIPE)

    @cached_property
    def stated(self) -> ConfigFile:
        """Its class and config, those of the recipe if there is no `config.json`."""
        if self.folder.has(CONFIG):
            return self.folder.config()
        return ConfigFile(self.recipe.model, self.recipe.config)

    @cached_property
    def entry(self) -> Entry | None:
        """The score on its card; None if there is none."""
        return published(self.folder)

    @cached_property
    def facts(self) -> TrainingFacts | None:
        """What its training cost; None if nothing tells."""
        return TrainingFacts.read(self.folder.path) if self.folder.has(TRAINING) else None

    @cached_property
    def parameters(self) -> int:
        """How many trainable numbers it has."""
        return parameter_count(self.stated)

    @property
    def data(self) -> str:
        """Name of its data."""
        return self.recipe.card.data_name or self.recipe.data.dataset or ""

    @property
    def margin(self) -> float | None:
        """`1 - L`, with the largest certified Lipschitz constant `L` of its nets."""
        return worst(self.stated.certificate).margin

    @cached_property
    def over_seeds(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the scores over seeds; None if there is one seed only."""
        return self.facts.over_seeds(self.entry.value) if self.facts and self.entry else None


def records(zoo: Path) -> list[Record]:
    """A record of every folder that has a recipe."""
    return [Record(ModelFolder(path.parent)) for path in sorted(zoo.glob(f"*/{RECIPE}"))]


def parameter_count(stated: ConfigFile) -> int:
    """Number of trainable numbers of a model."""
    with torch.device("meta"):
        model = model_class(stated.model)(stated.config)
    return sum(p.numel() for p in model.parameters())
