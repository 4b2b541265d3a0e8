"""Does ImpFlow beat ResFlow at equal size? The table and the picture, from the models' folders."""

from __future__ import annotations

import math
from pathlib import Path

from impflow_zoo.facts import TRAINING, TrainingFacts
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.pictures import Points, draw_pairs
from impflow_zoo.publishing.rows import Row
from impflow_zoo.publishing.scores import paired_error

__all__ = ["picture", "table", "trained_pairs"]

_FIRST, _SECOND = "impflow-", "resflow-"


def trained_pairs(rows: list[Row]) -> list[tuple[Row, Row]]:
    """`impflow-NAME` and `resflow-NAME`, where both have weights."""
    named = {row.model: row for row in rows if row.value}
    partners = (
        (row, named.get(row.model.replace(_FIRST, _SECOND, 1)))
        for row in named.values()
        if row.model.startswith(_FIRST)
    )
    return [(first, second) for first, second in partners if second is not None]


def table(pairs: list[tuple[Row, Row]], zoo: Path) -> str:
    """The pairs as a Markdown table; "ahead" is positive where ImpFlow is better.

    Its error is that over the same rows, row by row, where both folders have the scores of rows,
    else that of two independent means, which is larger. Where recipes were trained with several
    seeds, their means are compared, and the spread over seeds enters the error. "At equal time" is
    how far ahead ImpFlow was on validation by the minute in which ResFlow's training ended.

    Arguments:
        pairs: what `trained_pairs` found.
        zoo: folder of the models' folders.
    """
    lines = [
        "| data | parameters | rows seen | ImpFlow | ResFlow | at equal time | ImpFlow ahead by |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(_cells(*pair, zoo)) + " |" for pair in pairs]
    return "\n".join(lines)


def _cells(first: Row, second: Row, zoo: Path) -> tuple[str, ...]:
    gain = METRICS[first.metric].sign * (_mean(first) - _mean(second))
    over_rows, how = paired_error(zoo / first.model, zoo / second.model), "paired"
    if over_rows is None:
        over_rows, how = math.hypot(float(first.stderr or 0), float(second.stderr or 0)), "unpaired"
    error = math.hypot(over_rows, _over_seeds(first), _over_seeds(second))
    return (
        first.data,
        _both(first.parameters, second.parameters),
        _both(first.rows_seen, second.rows_seen),
        *(_value(row) for row in (first, second)),
        _at_equal_time(first, second, zoo),
        f"{gain:+.4f} ± {error:.4f} {METRICS[first.metric].unit}, {how}",
    )


def _at_equal_time(first: Row, second: Row, zoo: Path) -> str:
    """How far the best validation of the first is ahead when the second's training was over."""
    curves = _curves(first, second, zoo)
    if curves is None:
        return ""
    sign, over = METRICS[first.metric].sign, curves[1][-1][1]
    best = [
        max((sign * value for _, seconds, value in curve if seconds <= over), default=-math.inf)
        for curve in curves
    ]
    return f"{best[0] - best[1]:+.4f}"


def _curves(first: Row, second: Row, zoo: Path) -> list[Points] | None:
    """The validation curves of both, where both have one."""
    if not all((zoo / row.model / TRAINING).is_file() for row in (first, second)):
        return None
    curves: list[Points] = [TrainingFacts.read(zoo / row.model).curve for row in (first, second)]
    return curves if all(curves) else None


def _mean(row: Row) -> float:
    return float(row.seeds_mean or row.value)


def _over_seeds(row: Row) -> float:
    """The rows are the same for all seeds: this error is on top of that over rows."""
    return float(row.seeds_std or 0) / max(1, int(row.seeds or 1)) ** 0.5


def _value(row: Row) -> str:
    text = f"{float(row.value):.3f} ± {float(row.stderr or 0):.3f}"
    if row.seeds_mean:
        mean, deviation = float(row.seeds_mean), float(row.seeds_std)
        text += f" ({row.seeds} seeds: {mean:.3f} ± {deviation:.3f})"
    return text


def _both(first: str, second: str) -> str:
    texts = [f"{int(number):,}" if number else "?" for number in (first, second)]
    return " / ".join(dict.fromkeys(texts))


def picture(pairs: list[tuple[Row, Row]], zoo: Path, path: Path) -> None:
    """Draw the validation curves of all pairs that have some.

    Arguments:
        pairs: what to draw, a line of plots each.
        zoo: folder of the models' folders.
        path: PNG file to write.
    """
    found = [(first, _curves(first, second, zoo)) for first, second in pairs]
    curves = [
        (first.model.removeprefix(_FIRST), METRICS[first.metric].unit, both)
        for first, both in found
        if both is not None
    ]
    draw_pairs(curves, ("ImpFlow", "ResFlow"), path)
