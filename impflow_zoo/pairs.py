"""Does ImpFlow beat ResFlow at equal size? The table and the picture, from the models' folders."""

from __future__ import annotations

import math
from pathlib import Path

from impflow_zoo.evaluation import UNITS
from impflow_zoo.facts import TrainingFacts
from impflow_zoo.pictures import draw_pairs
from impflow_zoo.results import Row

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


def table(pairs: list[tuple[Row, Row]]) -> str:
    """The pairs as a Markdown table; "ahead" is positive where ImpFlow is better.

    Where recipes were trained with several seeds, their means are compared, and the error is that
    of the means.
    """
    lines = [
        "| data | parameters | rows seen | ImpFlow | ResFlow | ImpFlow ahead by |",
        "|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(_cells(*pair)) + " |" for pair in pairs]
    return "\n".join(lines)


def _cells(first: Row, second: Row) -> tuple[str, ...]:
    gain = _mean(first) - _mean(second)
    gain = gain if first.metric == "log_likelihood" else -gain
    error = math.hypot(_error(first), _error(second))
    return (
        first.data,
        _both(first.parameters, second.parameters),
        _both(first.rows_seen, second.rows_seen),
        *(_value(row) for row in (first, second)),
        f"{gain:+.3f} ± {error:.3f} {UNITS[first.metric]}",
    )


def _mean(row: Row) -> float:
    return float(row.seeds_mean or row.value)


def _error(row: Row) -> float:
    """The rows are the same for all seeds, so what seeds add is on top of the error over rows."""
    seeds = float(row.seeds_std or 0) / max(1, int(row.seeds or 1)) ** 0.5
    return math.hypot(float(row.stderr or 0), seeds)


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
    """Draw the validation curves of all pairs.

    Arguments:
        pairs: what to draw, a line of plots each.
        zoo: folder of the models' folders.
        path: PNG file to write.
    """
    curves = [
        (
            first.model.removeprefix(_FIRST),
            UNITS[first.metric],
            [TrainingFacts.read(zoo / row.model).curve for row in (first, second)],
        )
        for first, second in pairs
    ]
    draw_pairs(curves, ("ImpFlow", "ResFlow"), path)
