"""The recipe of a candidate as a text with comments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from impflow_zoo.fitting.columns import Findings
from impflow_zoo.models.texts import in_line

__all__ = ["recipe_text"]


def recipe_text(
    findings: Findings,
    model: str,
    config: dict[str, Any],
    stages: Sequence[dict[str, Any]],
    *,
    data: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    ensemble: int = 1,
    head: str,
) -> str:
    """A recipe with what was found of the columns as comments.

    Arguments:
        findings: the columns.
        model, config, data, card: its sections; `data` and `card` are left out if they are empty.
        stages: the settings of each stage of its training.
        ensemble: number of trainings whose mixture is the model.
        head: the first lines.
    """
    comments = [*head.splitlines(), "", *findings.lines(published=True)]
    text = "".join(f"# {in_line(line)}".rstrip() + "\n" for line in comments)
    text += _dumped({"model": model, "config": config})
    for option, (values, why) in findings.proposals().items():
        lines = [f"{why}:", *_dumped({option: values}).splitlines()]
        text += "".join(f"  # {line}\n" for line in lines)
    more = {"data": data and dict(data), "ensemble": ensemble if ensemble > 1 else None}
    last = stages[-1]
    kept: dict[str, Any] = {key: value for key, value in more.items() if value}
    kept["training"] = last
    if len(stages) > 1:
        kept["stages"] = [
            {key: value for key, value in one.items() if value != last[key]} for one in stages
        ]
    return text + _dumped({**kept, **({"card": dict(card)} if card else {})})


def _dumped(sections: dict[str, Any]) -> str:
    """Lists in one line, sections in several."""
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True, default_flow_style=None)
