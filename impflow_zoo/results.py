"""`results.json`: what evaluation found out about a model, one entry for each data set and split.

Cards, `results.csv`, the tables of the documents, `impflow-zoo list` and the number that `evaluate`
shows as the card's are made from these entries.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from impflow_zoo.models.fields import ConfigError, ModelError, convert, convert_fields
from impflow_zoo.models.folder import RESULTS, ModelFolder, readable

if TYPE_CHECKING:
    from impflow_zoo.evaluation import Result

__all__ = ["Entry", "published", "read_results", "text"]


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

    @classmethod
    def of(cls, result: Result, data: str, split: str) -> Entry:
        """The entry of a result, with as many digits as are worth keeping."""
        return cls(
            data=data,
            split=split,
            metric=result.metric,
            value=round(result.value, 6),
            stderr=round(result.stderr, 5),
            estimator_stderr=float(f"{result.estimator_stderr:.3g}"),
            n=result.n,
            seed=result.seed,
            logdet=result.logdet,
            round_trip=float(f"{result.round_trip:.2g}"),
        )

    @property
    def rows(self) -> str:
        """What the value was measured on, in words."""
        return f"{self.n:,} rows of {self.data}"

    def put_first(self, others: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """This entry before others, in place of an old one of the same rows."""
        rows = (self.data, self.split)
        return (self, *(other for other in others if (other.data, other.split) != rows))


def read_results(folder: ModelFolder) -> tuple[Entry, ...]:
    """The entries in a model's folder, that of the card first; none if there is no such file.

    Raises:
        ModelError: if the file is damaged.
    """
    path = folder.file(RESULTS)
    if path is None:
        return ()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found: tuple[Entry, ...] = convert(data, tuple[Entry, ...], RESULTS)
        return found
    except (ValueError, ConfigError) as error:
        raise ModelError(
            f"{folder.name}: {RESULTS} is damaged ({readable(error)}): stage the model again"
        ) from None


def published(folder: ModelFolder) -> Entry | None:
    """The entry that the card speaks of; None if it cannot be had, which stops nothing."""
    try:
        return next(iter(read_results(folder)), None)
    except (ModelError, OSError):
        return None


def text(entries: tuple[Entry, ...]) -> str:
    """What `read_results` reads."""
    return json.dumps([asdict(entry) for entry in entries], indent=1) + "\n"
