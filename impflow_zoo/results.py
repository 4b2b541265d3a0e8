"""`results.json`: what evaluation found out about a model, one entry for each data set and split.

Cards, `results.csv`, the tables of the documents, `impflow-zoo list` and the number that `evaluate`
shows as the card's are made from these entries.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from huggingface_hub.errors import HfHubHTTPError

from impflow_zoo.models import layout
from impflow_zoo.models.config import ConfigError, ModelError, convert
from impflow_zoo.models.fields import convert_fields

__all__ = ["Entry", "entry_of", "published", "read_results", "text", "with_entry"]


@dataclass(frozen=True)
class Entry:
    """The score of a model on one split of a data set.

    Arguments:
        data: name of the data set, as the card calls it.
        split: of the data set.
        metric, value, stderr, estimator_stderr, n, seed, logdet, round_trip: as in `evaluate`.
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

    def __post_init__(self) -> None:
        convert_fields(self)

    @property
    def rows(self) -> str:
        """What the value was measured on."""
        return f"{self.n:,} rows of {self.data}"


class _Scored(Protocol):
    """An `evaluation.Result`."""

    metric: str
    value: float
    stderr: float
    estimator_stderr: float
    n: int
    seed: int
    logdet: str
    round_trip: float


def entry_of(result: Any, data: str, split: str) -> Entry:
    """The entry of an `evaluation.Result`, with as many digits as are worth keeping."""
    found: _Scored = result
    return Entry(
        data=data,
        split=split,
        metric=found.metric,
        value=round(found.value, 6),
        stderr=round(found.stderr, 5),
        estimator_stderr=float(f"{found.estimator_stderr:.3g}"),
        n=found.n,
        seed=found.seed,
        logdet=found.logdet,
        round_trip=float(f"{found.round_trip:.2g}"),
    )


def read_results(files: layout.Files) -> tuple[Entry, ...]:
    """The entries in a model's folder, that of the card first; none if there is no such file.

    Raises:
        ModelError: if the file is damaged.
    """
    path = layout.optional_path(files, layout.RESULTS)
    if path is None:
        return ()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found: tuple[Entry, ...] = convert(data, tuple[Entry, ...], layout.RESULTS)
        return found
    except (ValueError, ConfigError) as error:
        raise ModelError(
            f"{files.name}: {layout.RESULTS} is damaged ({layout.readable(error)}): stage the "
            "model again"
        ) from None


def published(files: layout.Files) -> Entry | None:
    """The entry that the card speaks of; None if it cannot be had, which stops nothing."""
    try:
        return next(iter(read_results(files)), None)
    except (ModelError, HfHubHTTPError, OSError):
        return None


def with_entry(entries: tuple[Entry, ...], new: Entry) -> tuple[Entry, ...]:
    """The entries with a new one first, in place of an old one of the same rows."""
    others = (e for e in entries if (e.data, e.split) != (new.data, new.split))
    return (new, *others)


def text(entries: tuple[Entry, ...]) -> str:
    """What `read_results` reads."""
    return json.dumps([asdict(entry) for entry in entries], indent=1) + "\n"
