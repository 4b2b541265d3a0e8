"""Scores that are kept: `results.json` of a model's folder, an entry for each data set and split.

Cards, `results.csv`, the tables of the documents, `impflow-zoo list` and the card's value in
`evaluate` are made from these entries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from impflow_zoo.evaluation.predictive import Predictive
from impflow_zoo.evaluation.result import Result
from impflow_zoo.models.fields import ConfigError, ModelError, convert
from impflow_zoo.models.filenames import RESULTS
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.models.reading import read_json, readable

__all__ = ["Entry", "card_entry", "read_entries", "results_text"]

# As many digits as are worth keeping.
_DIGITS = {
    "value": ".6f",
    "stderr": ".5f",
    "estimator_stderr": ".3g",
    "round_trip": ".2g",
    "effective_n": ".1f",
}


@dataclass(frozen=True)
class Entry:
    """The score of a model on one split of a data set.

    Arguments:
        data: name of the data set on the card.
        split: split of the data set.
        metric, value, stderr, estimator_stderr, n, seed, logdet, round_trip, predictive, groups,
            effective_n: as in `evaluate`.
        sha256: of the weights that were scored; None if it was not kept.
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
    effective_n: float | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, result: Result, data: str, split: str, sha256: str | None) -> Entry:
        """The entry of a result."""
        known: dict[str, Any] = {f.name: getattr(result, f.name, None) for f in fields(cls)}
        rounded = {
            name: float(format(known[name], digits))
            for name, digits in _DIGITS.items()
            if known[name] is not None
        }
        return cls(**{**known, **rounded, "data": data, "split": split, "sha256": sha256})

    @property
    def rows(self) -> str:
        """What the value was measured on, in words."""
        what = "images" if self.metric == "bits_per_dim" else "rows"
        return f"{self.n:,} {what} of {self.data}"


def read_entries(folder: ModelFolder) -> tuple[Entry, ...]:
    """The entries in a model's folder, the card's first; none if there is no `results.json`.

    Raises:
        ModelError: if the file is damaged.
    """
    path = folder.file(RESULTS)
    if path is None:
        return ()
    try:
        return tuple(convert(read_json(path, RESULTS), tuple[Entry, ...], RESULTS))
    except ConfigError as error:
        raise ModelError(
            f"{folder.name}: {RESULTS} is damaged ({readable(error)}): delete it and "
            "stage the model again"
        ) from None


def card_entry(folder: ModelFolder) -> Entry | None:
    """The score on the card; None if there is none, of other weights, or the file is damaged."""
    try:
        entry = next(iter(read_entries(folder)), None)
        if entry is None or entry.sha256 is None or entry.sha256 == folder.config().sha256:
            return entry
    except (ModelError, OSError):
        pass
    return None


def results_text(entries: Sequence[Entry]) -> str:
    """The content of `results.json`."""
    return json.dumps([asdict(entry) for entry in entries], indent=1) + "\n"
