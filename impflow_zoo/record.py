"""The contents of a model's folder, read when they are needed.

`results.json` holds the scores of a model, one entry for each data set and split. Cards,
`results.csv`, the tables of the documents, `impflow-zoo list` and the card's value in `evaluate`
are made from these entries.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from impflow_zoo.facts import TrainingFacts
from impflow_zoo.lipschitz.certify import worst
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.fields import ConfigError, ModelError, convert
from impflow_zoo.models.folder import (
    CONFIG,
    RECIPE,
    RESULTS,
    TRAINING,
    ConfigFile,
    ModelFolder,
)
from impflow_zoo.models.reading import read_json, readable
from impflow_zoo.predictive import Predictive
from impflow_zoo.recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from impflow_zoo.evaluation import Result

__all__ = ["Entry", "Record", "records", "results_text"]

# As many digits as are worth keeping.
_DIGITS = {"value": ".6f", "stderr": ".5f", "estimator_stderr": ".3g", "round_trip": ".2g"}


@dataclass(frozen=True)
class Entry:
    """The score of a model on one split of a data set.

    Arguments:
        data: name of the data set on the card.
        split: split of the data set.
        metric, value, stderr, estimator_stderr, n, seed, logdet, round_trip, predictive, groups: as
            in `evaluate`.
    """

    data: str
    split: str
    metric: str
    value: float
    stderr: float
    estimator_stderr: float
    n: int
    seed: int
    logdet: str
    round_trip: float
    predictive: tuple[Predictive, ...] = ()
    groups: int | None = None

    @classmethod
    def of(cls, result: Result, data: str, split: str) -> Entry:
        """The entry of a result."""
        known: dict[str, Any] = {f.name: getattr(result, f.name, None) for f in fields(cls)}
        rounded = {name: float(format(known[name], digits)) for name, digits in _DIGITS.items()}
        return cls(**{**known, **rounded, "data": data, "split": split})

    @property
    def rows(self) -> str:
        """What the value was measured on, in words."""
        return f"{self.n:,} rows of {self.data}"


@dataclass(frozen=True)
class Record:
    """The contents of a model's folder.

    Arguments:
        folder: of the model.
    """

    folder: ModelFolder

    @property
    def name(self) -> str:
        """Name of the model: that of a link, not of what it leads to."""
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
        path = self.folder.file(RESULTS)
        if path is None:
            return ()
        try:
            return tuple(convert(read_json(path, RESULTS), tuple[Entry, ...], RESULTS))
        except ConfigError as error:
            raise ModelError(
                f"{self.folder.name}: {RESULTS} is damaged ({readable(error)}): delete it and "
                "stage the model again"
            ) from None

    @cached_property
    def entry(self) -> Entry | None:
        """The score on its card; None if there is none or the file is damaged."""
        try:
            return next(iter(self.entries), None)
        except (ModelError, OSError):
            return None

    @cached_property
    def facts(self) -> TrainingFacts | None:
        """The cost of its training; None if it was not recorded."""
        return TrainingFacts.read(self.folder.path) if self.folder.has(TRAINING) else None

    @cached_property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        with torch.device("meta"):
            model = model_class(self.stated.model)(self.stated.config)
        return sum(p.numel() for p in model.parameters())

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


def results_text(entries: Sequence[Entry]) -> str:
    """The content of `results.json`."""
    return json.dumps([asdict(entry) for entry in entries], indent=1) + "\n"
