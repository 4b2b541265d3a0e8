"""The card of a fit: what it found, what it tried, and how to make it again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from impflow_zoo.evaluation import Result
from impflow_zoo.evaluation.entries import Entry, results_text
from impflow_zoo.fitting.result import Fit
from impflow_zoo.models.filenames import CARD, RESULTS
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.zoo.cards import Origin, model_card
from impflow_zoo.zoo.markdown import markdown
from impflow_zoo.zoo.record import Record

__all__ = ["card_words", "write_card"]

_LIMITS = (
    "The model was chosen among few candidates, which were not tuned for this table.",
    "Nobody has looked at it: compare samples with rows before you use it.",
)


def card_words(data: str) -> dict[str, Any]:
    """The section `card` of the recipe of a fit.

    Arguments:
        data: as `fit` was given them; empty for rows in memory.
    """
    path = Path(data)
    name = path.resolve().name if data and path.exists() else data
    return {
        "summary": "The density of a table, found by `fit` of impflow_zoo.",
        "data_name": re.sub(r"[^\w./ -]", " ", name) or "table",  # no markup
        "data_license": "not stated",
        "limits": list(_LIMITS),
    }


def write_card(found: Fit, result: Result, *, again: str) -> None:
    """Write `README.md` and `results.json` into the folder of a fit.

    Arguments:
        found: the fit.
        result: the score on its test rows.
        again: the command that makes it again.
    """
    folder = ModelFolder(found.folder)
    name = Record(folder).recipe.card.data_name
    score = Entry.of(result, name, "test", folder.config().sha256)
    folder.replace({RESULTS: results_text([score]).encode()})
    origin = Origin(str(found.folder), again, _table(found))
    card = model_card(Record(folder), address=str(found.folder), origin=origin)
    folder.replace({CARD: card.encode()})


def _table(found: Fit) -> str:
    """What was tried, in Markdown."""
    rows = [
        (
            f"**{one.name}**" if one == found.best else one.name,
            str(one.round or "last"),
            f"{one.done:,}",
            "none" if one.value is None else f"{one.value:.4f}",
            f"{one.cpu_minutes:.1f}",
            f"{found.value:.4f} ± {found.stderr:.4f}" if one == found.best else "",
        )
        for one in found.tried
    ]
    rows += [
        (one.name, "", "", f"{one.validation:.4f}", "", f"{found.test_baselines[one.name]:.4f}")
        for one in found.baselines
    ]
    total = sum(one.cpu_minutes for one in found.tried)
    rows.append(("together", "", "", "", f"{total:.1f}", ""))
    return markdown("tried | round | steps | validation, nats | CPU minutes | test, nats", rows)
