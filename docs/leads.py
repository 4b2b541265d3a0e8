"""Which of two models is ahead, by how much, and what guides say of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from impflow_zoo.evaluation.entries import Entry
from impflow_zoo.evaluation.row_scores import paired_error
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.zoo.record import Record

__all__ = [
    "Pair",
    "entry_of",
    "is_level",
    "lead",
    "leads_list",
    "ranking",
    "trained_once",
    "trained_pairs",
]

Pair = tuple[Record, Record]


def entry_of(record: Record) -> Entry:
    """The score of a model that has one."""
    assert record.entry is not None, "only models with scores are compared"
    return record.entry


def trained_pairs(found: Sequence[Record]) -> list[Pair]:
    """`impflow-NAME` and `resflow-NAME`, where both have weights."""
    named = {record.name: record for record in found if record.entry}
    return [
        (record, named[partner])
        for name, record in named.items()
        if name.startswith("impflow-") and (partner := name.replace("imp", "res", 1)) in named
    ]


def lead(pair: Pair) -> tuple[float, float, str]:
    """By how much the first model is better, the error, and `"paired"` or `"unpaired"`.

    The error is the standard error of differences row by row if both folders have the scores of
    rows, else the error of the difference of two independent means, which is larger. Both are
    clustered by group where rows have groups. Where recipes were trained with several seeds, their
    means are compared, and the spread over seeds enters the error.
    """
    means, deviations, seeds = zip(
        *(r.over_seeds or (entry_of(r).value, 0.0, 1) for r in pair), strict=True
    )
    gain = METRICS[entry_of(pair[0]).metric].sign * (means[0] - means[1])
    over_rows, how = paired_error(*(record.folder for record in pair)), "paired"
    if over_rows is None:
        over_rows, how = math.hypot(*(entry_of(record).stderr for record in pair)), "unpaired"
    over_seeds = (d / n**0.5 for d, n in zip(deviations, seeds, strict=True))
    return gain, math.hypot(over_rows, *over_seeds), how


def is_level(gain: float, error: float) -> bool:
    """Whether a lead is less than two of its errors."""
    return abs(gain) < 2 * error


def trained_once(pair: Pair) -> bool:
    """Whether one of two models has a single seed, so that the error of their lead has none."""
    return any(record.over_seeds is None for record in pair)


def leads_list(pairs: Sequence[Pair]) -> str:
    """On which data either family is ahead, after how many trainings, and where they are level."""
    found: dict[str, list[str]] = {
        "`ImpFlow` is ahead over several seeds": [],
        "`ResFlow` is ahead over several seeds": [],
        "Of a single training, that of `ImpFlow` scores better": [],
        "Of a single training, that of `ResFlow` scores better": [],
        "Level": [],
    }
    *ahead, level = found.values()
    for pair in pairs:
        gain, error, _ = lead(pair)
        place = level if is_level(gain, error) else ahead[2 * trained_once(pair) + (gain < 0)]
        place.append(f"`{pair[0].name.removeprefix('impflow-')}`")
    return "\n".join(f"- {whose}: {', '.join(data)}." for whose, data in found.items() if data)


def ranking(titled: dict[str, Record]) -> str:
    """Models of one data set by their titles, the best first; neighbours may be level."""

    def place(title: str) -> float:
        record = titled[title]
        mean = (record.over_seeds or (entry_of(record).value,))[0]
        return -METRICS[entry_of(record).metric].sign * mean

    order = sorted(titled, key=place)
    text = order[0]
    for better, worse in itertools.pairwise(order):
        gain, error, _ = lead((titled[better], titled[worse]))
        text += f", level with {worse}" if is_level(gain, error) else f", then {worse}"
    return text
