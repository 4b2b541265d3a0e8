"""Scores of single rows that are kept, to compare models row by row.

`scores.safetensors` holds the metric of each row that a card speaks of, the group and the weight of
each if rows have them, and which rows they are.
"""

from __future__ import annotations

import json

from safetensors import safe_open
from safetensors.torch import save as serialise

from impflow_zoo.evaluation.result import Result
from impflow_zoo.evaluation.standard_errors import same_groups, standard_error
from impflow_zoo.models.filenames import SCORES
from impflow_zoo.models.folder import ModelFolder

__all__ = ["paired_error", "scores_file"]


def scores_file(result: Result, data: str, split: str) -> bytes:
    """The content of `scores.safetensors`.

    Arguments:
        result: the scores.
        data, split: name of the data set on the card, and its split.
    """
    assert result.per_row is not None
    rows = json.dumps([data, split, result.seed])
    tensors = {"metric": result.per_row.float().contiguous()}
    if result.row_groups is not None:
        tensors["group"] = result.row_groups.int().contiguous()
    if result.row_weights is not None:
        tensors["weight"] = result.row_weights.contiguous()
    return serialise(tensors, metadata={"rows": rows})


def paired_error(one: ModelFolder, other: ModelFolder) -> float | None:
    """Standard error of the difference of two models' means over the same rows.

    Rows that are hard for one model are hard for the other: this error is smaller than that of two
    independent means. It is clustered by group where rows have groups, and weighted where they have
    weights.

    Returns:
        None where a folder has no scores, or they are not of the same rows, groups, weights and
        noise.
    """
    scores, rows, groups, weights = [], [], [], []
    for folder in (one, other):
        if not folder.has(SCORES):
            return None
        with safe_open(folder.path / SCORES, framework="pt") as file:
            scores.append(file.get_tensor("metric").double())
            rows.append((file.metadata()["rows"], len(scores[-1])))
            names = file.keys()
            groups.append(file.get_tensor("group") if "group" in names else None)
            weights.append(file.get_tensor("weight") if "weight" in names else None)
    same = rows[0] == rows[1] and same_groups(*groups) and same_groups(*weights)
    if not same or len(scores[0]) < 2:
        return None
    return float(standard_error(scores[0] - scores[1], groups[0], weights[0]))
