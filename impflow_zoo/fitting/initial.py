"""A first recipe for a table, to be edited by people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from impflow_zoo.fitting.budget import VALIDATIONS, price
from impflow_zoo.fitting.columns import Findings, describe
from impflow_zoo.fitting.portfolio import candidates, training_settings
from impflow_zoo.fitting.reading import read_table
from impflow_zoo.fitting.texts import recipe_text

__all__ = ["first_recipe"]

_HELD_OUT = 10_000  # validation rows, at most

_PATIENCE = 8  # validations without a gain
_CARD = """\
# What `stage` and `publish` need:
# card:
#   summary: what the model is
#   data_name: name of the data
#   data_license: their licence
#   license: id of the licence of the weights, such as mit (may be left out)
"""


def first_recipe(
    data: Any,
    given: Sequence[str] = (),
    minutes: float = 10.0,
    weights: str | None = None,
    columns: Sequence[str] | None = None,
) -> tuple[Findings, str]:
    """The recipe of the first candidate of `fit`, with steps for a given time.

    Arguments:
        data, given, weights, columns: as for `fit`.
        minutes: of work.

    Returns:
        What was found of the columns, and the text of the recipe.

    Raises:
        DataError: as `fit`.
    """
    table = read_table(data, weights)
    findings = describe(table.first, given, table.name, columns=columns)
    held_out = min(_HELD_OUT, max(2, findings.rows // 10))
    splits: dict[str, Any] = {"validation_rows": held_out}
    if "validation" in table.splits:
        splits, held_out = {}, 0
    if weights is not None:
        splits["weights"] = weights
    rows = findings.rows - held_out
    candidate = candidates(findings)[0]
    steps = price(candidate, findings, rows, held_out or rows).steps(60 * minutes, VALIDATIONS)
    training = training_settings(
        candidate, steps, rows, seed=0, validations=VALIDATIONS, patience=_PATIENCE
    )
    head = ["impflow-zoo train RECIPE --data DATA --out FOLDER"]
    if "validation_rows" in splits:
        head.append("Validation rows are the last ones of the file: shuffle it if it has an order.")
    if findings.dropped:
        head.append(
            "Drop the rows with missing values first, or use `impflow-zoo fit`, which does."
        )
    text = recipe_text(
        findings,
        candidate.model,
        candidate.full_config(findings),
        [training],
        data=splits,
        head="\n".join(head),
    )
    return findings, text + _CARD
