"""Does ImpFlow beat ResFlow at equal size? The table and the picture, from the models' folders."""

from __future__ import annotations

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
    """The pairs as a Markdown table; "ahead" is positive where ImpFlow is better."""
    lines = [
        "| data | parameters | rows seen | ImpFlow | ResFlow | ImpFlow ahead by |",
        "|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(_cells(*pair)) + " |" for pair in pairs]
    return "\n".join(lines)


def _cells(first: Row, second: Row) -> tuple[str, ...]:
    gain = float(first.value) - float(second.value)
    gain = gain if first.metric == "log_likelihood" else -gain
    error = sum(float(row.stderr or 0) ** 2 for row in (first, second)) ** 0.5
    return (
        first.data,
        _both(first.parameters, second.parameters),
        _both(first.rows_seen, second.rows_seen),
        *(f"{float(r.value):.3f} ± {float(r.stderr or 0):.3f}" for r in (first, second)),
        f"{gain:+.3f} ± {error:.3f} {UNITS[first.metric]}",
    )


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
