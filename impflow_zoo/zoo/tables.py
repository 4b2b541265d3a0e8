"""Cards, `results.csv`, the tables of the guides and the picture of pairs, from models' folders.

Run in a checkout, after a model was staged or a figure has changed:
    python -m impflow_zoo.zoo.tables
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas
import typer

from impflow_zoo.data.spreadsheets import as_csv
from impflow_zoo.evaluation.standard_errors import clustered
from impflow_zoo.models import registry
from impflow_zoo.models.folder import CARD
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.mistakes import in_one_line
from impflow_zoo.models.writing import write_together
from impflow_zoo.zoo import pairs
from impflow_zoo.zoo.cards import trained_card
from impflow_zoo.zoo.record import Record, records

__all__ = ["between", "documents", "zoo_table"]

PICTURE = Path("docs") / "pictures" / "pairs.png"


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


def zoo_table(found: Sequence[Record]) -> str:
    """A Markdown table of models with weights, pairs side by side; the others below."""
    found = sorted(found, key=_pairs_together)
    rows = [
        (
            _link(record),
            record.stated.model,
            record.data,
            f"{entry.value:.3f} ± {entry.stderr:.3f} {METRICS[entry.metric].unit}"
            + clustered(entry.groups),
            f"{record.parameters:,}",
            f"{record.margin:.4f}" if record.margin else "",
            f"{facts.minutes:.0f} min, {facts.hardware}" if (facts := record.facts) else "",
        )
        for record in found
        if (entry := record.entry)
    ]
    header = "model | class | data | result | parameters | margin | training"
    text = pairs.markdown(header, ([cell.replace("|", "/") for cell in row] for row in rows))
    for title, published in (
        ("Recipes without weights yet", False),
        ("Published checkpoints, to be [converted](../conversion/README.md)", True),
    ):
        links = [
            _link(record)
            for record in found
            if record.entry is None and record.name.endswith("-published") == published
        ]
        if links:
            text += f"\n\n{title}: {', '.join(links)}."
    return text


def _link(record: Record) -> str:
    return f"[{record.name}](../hub_configs/{record.name})"


def _pairs_together(record: Record) -> tuple[str, str]:
    """`impflow-NAME` and `resflow-NAME` sort by what they share."""
    kind, dash, name = record.name.partition("-")
    return (name, kind) if dash else (kind, "")


def between(text: str, name: str, content: str) -> str:
    """Replace what stands between two markers of a text.

    Raises:
        ValueError: if the text does not have both.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"there is no place for the {name}: mark it by {begin} and {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def documents(root: Path) -> dict[Path, str]:
    """What the generated files of a checkout should hold."""
    zoo = root / "hub_configs"
    found = records(zoo)
    made = {
        record.folder.path / CARD: trained_card(record, zoo, found)
        for record in found
        if record.entry is not None
    }
    rows = pandas.DataFrame([_row(record) for record in found], dtype=object)
    made[root / "results.csv"] = as_csv(rows).decode()
    for name, marker, table in (
        ("models.md", "zoo table", zoo_table(found)),
        ("impflow-beside-resflow.md", "pairs table", pairs.table(pairs.trained_pairs(found))),
    ):
        page = root / "docs" / name
        made[page] = between(page.read_text(encoding="utf-8"), marker, table)
    return made


def main() -> None:
    """Write all generated files of the checkout."""
    zoo = registry.zoo_folder()
    root = zoo.parent
    made = {path: text.encode() for path, text in documents(root).items()}
    write_together(made)
    pairs.picture(pairs.trained_pairs(records(zoo)), root / PICTURE)
    for path in (*made, root / PICTURE):
        print(path)


if __name__ == "__main__":
    with in_one_line():
        typer.run(main)
