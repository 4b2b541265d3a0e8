"""The contents of a model's folder, read when they are needed."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from impflow_zoo.evaluation.entries import Entry, card_entry, read_entries
from impflow_zoo.lipschitz.certify import worst
from impflow_zoo.models.filenames import CONFIG, RECIPE, TRAINING
from impflow_zoo.models.folder import ConfigFile, ModelFolder
from impflow_zoo.training.facts import TrainingFacts
from impflow_zoo.training.recipe import Recipe, read_recipe

__all__ = ["Record", "records"]


@dataclass(frozen=True)
class Record:
    """The contents of a model's folder.

    Arguments:
        folder: of the model.
    """

    folder: ModelFolder

    @property
    def name(self) -> str:
        """Name of the model's folder. A link keeps its own name."""
        return Path(os.path.abspath(self.folder.path)).name

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

    @property
    def trained(self) -> bool:
        """Whether the config records weights, which lie here or on the Hub."""
        return self.stated.sha256 is not None

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The entries of `results.json`, the card's first; none if there is no such file.

        Raises:
            ModelError: if the file is damaged.
        """
        return read_entries(self.folder)

    @cached_property
    def entry(self) -> Entry | None:
        """The score on its card; None if there is none or the file is damaged."""
        return card_entry(self.folder)

    @cached_property
    def facts(self) -> TrainingFacts | None:
        """The cost of its training; None if it was not recorded."""
        return TrainingFacts.read(self.folder.path) if self.folder.has(TRAINING) else None

    @property
    def parameters(self) -> int | None:
        """Number of trainable parameters; None if it was not trained here."""
        return self.facts.parameters if self.facts else None

    @property
    def data(self) -> str:
        """Name of its data."""
        return self.recipe.card.data_name or self.recipe.data.dataset or ""

    @property
    def margin(self) -> float | None:
        """`1 - L`, with the largest certified Lipschitz constant `L` of its nets."""
        return worst(self.stated.certificate).margin

    @cached_property
    def over_seeds(self) -> tuple[float, float, int] | None:
        """Mean and standard deviation of the scores over seeds, and their number; None for one."""
        if not (self.entry and self.facts and self.facts.repeats):
            return None
        values = [self.entry.value, *(repeat.value for repeat in self.facts.repeats)]
        return statistics.mean(values), statistics.stdev(values), len(values)


def records(zoo: Path) -> list[Record]:
    """A record of every folder that has a recipe."""
    return [Record(ModelFolder(path.parent)) for path in sorted(zoo.glob(f"*/{RECIPE}"))]
