"""Does ImpFlow beat ResFlow at equal size? The table and the picture, from the models' folders.

`scores.safetensors` holds the metric of each row that a card speaks of, and the group of each if
rows have groups: two models of the same rows are compared row by row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save as serialise

from impflow_zoo.evaluation import Result
from impflow_zoo.evaluation.entries import Entry
from impflow_zoo.evaluation.standard_errors import clustered, same_groups, standard_error
from impflow_zoo.models.folder import SCORES, ModelFolder
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.plots.pictures import Points, draw_curves
from impflow_zoo.training.recipe import Recipe
from impflow_zoo.zoo.record import Record

__all__ = ["lead", "markdown", "paired_error", "picture", "scores_file", "table", "trained_pairs"]

_FIRST, _SECOND = "impflow-", "resflow-"
Pair = tuple[Record, Record]


def trained_pairs(records: Sequence[Record]) -> list[Pair]:
    """`impflow-NAME` and `resflow-NAME`, where both have weights."""
    named = {record.name: record for record in records if record.entry}
    return [
        (record, named[partner])
        for name, record in named.items()
        if name.startswith(_FIRST) and (partner := name.replace(_FIRST, _SECOND, 1)) in named
    ]


def markdown(header: str, rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are text already, under a header such as `"d | solver"`."""
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def table(pairs: Sequence[Pair]) -> str:
    """The pairs as a Markdown table; "ahead" is positive where ImpFlow is better."""
    header = "data | parameters | rows seen | ImpFlow | ResFlow | ImpFlow ahead by"
    return markdown(header, map(_cells, pairs))


def lead(pair: Pair) -> tuple[float, float, str]:
    """By how much the first model is better, the error, and `"paired"` or `"unpaired"`.

    The error is the standard error of differences row by row if both folders have the scores of
    rows, else the error of the difference of two independent means, which is larger. Both are
    clustered by group where rows have groups. Where recipes were trained with several seeds, their
    means are compared, and the spread over seeds enters the error.
    """
    means, deviations, seeds = zip(
        *(r.over_seeds or (_entry(r).value, 0.0, 1) for r in pair), strict=True
    )
    gain = METRICS[_entry(pair[0]).metric].sign * (means[0] - means[1])
    over_rows, how = paired_error(*(record.folder for record in pair)), "paired"
    if over_rows is None:
        over_rows, how = math.hypot(*(_entry(record).stderr for record in pair)), "unpaired"
    over_seeds = (d / n**0.5 for d, n in zip(deviations, seeds, strict=True))
    return gain, math.hypot(over_rows, *over_seeds), how


def _cells(pair: Pair) -> tuple[str, ...]:
    gain, error, how = lead(pair)
    return (
        pair[0].data,
        _both(record.parameters for record in pair),
        _both(record.facts.rows_seen if record.facts else None for record in pair),
        *map(_value, pair),
        f"{gain:+.4f} ± {error:.4f} {METRICS[_entry(pair[0]).metric].unit}, {how}"
        + clustered(_entry(pair[0]).groups),
    )


def _entry(record: Record) -> Entry:
    assert record.entry is not None, "only models with scores make pairs"
    return record.entry


def _value(record: Record) -> str:
    entry, several = _entry(record), record.over_seeds
    spread = f" ({several[2]} seeds: {several[0]:.3f} ± {several[1]:.3f})" if several else ""
    return f"{entry.value:.3f} ± {entry.stderr:.3f}{spread}"


def _both(numbers: Iterable[int | None]) -> str:
    texts = ["?" if number is None else f"{number:,}" for number in numbers]
    return " / ".join(dict.fromkeys(texts))


def _curves(pair: Pair) -> list[Points] | None:
    """The validation curves of both, where both have one."""
    curves: list[Points] = [record.facts.curve for record in pair if record.facts]
    return curves if len(curves) == 2 and all(curves) else None


def scores_file(result: Result, recipe: Recipe) -> bytes:
    """The content of `scores.safetensors`: metric and group of each row, and what rows they are."""
    assert result.per_row is not None
    rows = json.dumps([recipe.card.data_name, recipe.data.test, result.seed])
    tensors = {"metric": result.per_row.float().contiguous()}
    if result.row_groups is not None:
        tensors["group"] = result.row_groups.int().contiguous()
    return serialise(tensors, metadata={"rows": rows})


def paired_error(one: ModelFolder, other: ModelFolder) -> float | None:
    """Standard error of the difference of two models' means over the same rows.

    Rows that are hard for one model are hard for the other: this error is smaller than that of two
    independent means. It is clustered by group where rows have groups.

    Returns:
        None where a folder has no scores, or they are not of the same rows, groups and noise.
    """
    scores, rows, groups = [], [], []
    for folder in (one, other):
        if not folder.has(SCORES):
            return None
        with safe_open(folder.path / SCORES, framework="pt") as file:
            scores.append(file.get_tensor("metric").double())
            rows.append((file.metadata()["rows"], len(scores[-1])))
            names = file.keys()
            groups.append(file.get_tensor("group") if "group" in names else None)
    if rows[0] != rows[1] or len(scores[0]) < 2 or not same_groups(*groups):
        return None
    return float(standard_error(scores[0] - scores[1], groups[0]))


def picture(pairs: Sequence[Pair], path: Path) -> None:
    """Draw the validation curves of all pairs that have some, a line of plots each."""
    curves = [
        (pair[0].name.removeprefix(_FIRST), _entry(pair[0]).metric, both)
        for pair in pairs
        if (both := _curves(pair)) is not None
    ]
    draw_curves(curves, ("ImpFlow", "ResFlow"), path)
