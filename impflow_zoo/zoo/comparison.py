"""What compares the models of a checkout: `results.csv`, and the families on four tables.

`stage` keeps both up to date, so a new model is one folder and one command.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from impflow_zoo.data.spreadsheets import as_csv
from impflow_zoo.zoo.markdown import between, markdown
from impflow_zoo.zoo.record import Record, records

__all__ = ["comparison", "families_table", "of_families", "score"]

_RESULTS, _README = "results.csv", "README.md"
_SPLINE_LAYER = " with a spline layer"
_FAMILIES = ("ImpFlow", "ResFlow", "SplineFlow", "MonotoneFlow", f"ImpFlow{_SPLINE_LAYER}")
_TABLES = {  # titles of the tables that are compared, by the names of the data on cards
    "kin8nm": "kin8nm",
    "UCI Combined Cycle Power Plant": "power plant",
    "UCI Physicochemical Properties of Protein Tertiary Structure": "protein",
    "BSDS300 (rebuilt)": "BSDS300",
}


def comparison(zoo: Path) -> dict[Path, str]:
    """What the files that compare models should hold; none if the folder is not of a checkout.

    Arguments:
        zoo: the folder of all models.

    Raises:
        ModelError: if the files of a model are damaged.
    """
    table, readme = zoo.parent / _RESULTS, zoo.parent / _README
    if zoo.name != "hub_configs" or not table.is_file():
        return {}
    found = records(zoo)
    page = readme.read_text(encoding="utf-8")
    return {
        table: _results(found),
        readme: between(page, "families table", families_table(found)),
    }


def _results(found: Sequence[Record]) -> str:
    import pandas

    return as_csv(pandas.DataFrame([_row(record) for record in found], dtype=object)).decode()


def _row(record: Record) -> dict[str, object]:
    """The line of a model in `results.csv`; unknown figures are empty."""
    entry, facts = record.entry, record.facts
    mean, deviation, _ = record.over_seeds or (None, None, None)
    return {
        "model": record.name,
        "kind": record.stated.model,
        "data": record.data,
        "metric": record.stated.config.metric,
        "value": entry and entry.value,
        "stderr": entry and entry.stderr,
        "estimator_stderr": entry and entry.estimator_stderr,
        "n": entry and entry.n,
        "groups": entry and entry.groups,
        "seeds": facts and 1 + len(facts.repeats),
        "seeds_mean": mean and f"{mean:.5f}",
        "seeds_std": deviation and f"{deviation:.5f}",
        "parameters": record.parameters,
        "margin": record.margin and f"{record.margin:.4f}",
        "rows_seen": facts and facts.rows_seen,
        "minutes": facts and facts.minutes,
        "hardware": facts and facts.hardware,
        "data_license": record.recipe.card.data_license,
        "sha256": record.stated.sha256,
    }


def score(record: Record) -> str:
    """The score of a model with its standard error, as tables show it; empty without one.

    Arguments:
        record: of the model.
    """
    entry = record.entry
    return f"{entry.value:.3f} ± {entry.stderr:.3f}" if entry else ""


def _family(record: Record) -> str:
    """The class of a model, and whether splines stand among blocks of another kind."""
    blocks = getattr(record.stated.config, "blocks", ())
    named = isinstance(blocks, tuple) and any(str(block).startswith("spline") for block in blocks)
    return record.stated.model + _SPLINE_LAYER * named


def of_families(found: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """The models of each table, by their families.

    Arguments:
        found: the models of the zoo.
    """
    compared = {(record.data, _family(record)): record for record in found if record.entry}
    return {
        title: {
            family: compared[data, family] for family in _FAMILIES if (data, family) in compared
        }
        for data, title in _TABLES.items()
    }


def families_table(found: Sequence[Record]) -> str:
    """The score of each family on each table, in Markdown.

    Arguments:
        found: the models of the zoo.
    """
    rows = [
        (title, *(score(own[family]) if family in own else "" for family in _FAMILIES))
        for title, own in of_families(found).items()
    ]
    return markdown(f"test nats | {' | '.join(_FAMILIES)}", rows)
