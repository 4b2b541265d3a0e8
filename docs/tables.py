"""Cards, install lines, and what compares the models: `results.csv`, tables, the picture of pairs.

Run in a checkout, after a model was staged, or a figure, the version or the repository's address in
`pyproject.toml` has changed (then `pip install -e .` first):
    python docs/tables.py

Scores come from the folders of the models, figures of papers and baselines from `figures.yaml`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas
import yaml
from leads import Pair, entry_of, is_level, lead, leads_list, ranking, trained_pairs

from impflow_zoo.data.spreadsheets import as_csv
from impflow_zoo.evaluation.entries import Entry
from impflow_zoo.models.folder import CARD, RECIPE
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.writing import write_together
from impflow_zoo.plots.pictures import Points, draw_curves
from impflow_zoo.zoo.cards import model_card
from impflow_zoo.zoo.install import install_line, repository, requirement
from impflow_zoo.zoo.markdown import between, markdown
from impflow_zoo.zoo.record import Record, records

__all__ = [
    "documents",
    "families_table",
    "models_table",
    "pairs_table",
    "zoo_table",
]

ROOT = Path(__file__).parents[1]
PICTURE = Path("docs") / "pictures" / "pairs.png"
FIGURES = Path("docs") / "figures.yaml"
SPACE = Path("space") / "requirements.txt"
FAMILIES = {"impflow": "ImpFlow", "resflow": "ResFlow", "spline": "SplineFlow"}
FAMILIES |= {"monotone": "MonotoneFlow", "mixed": "ImpFlow with a spline layer"}
TABLES = {
    "kin8nm": "kin8nm",
    "power-plant": "power plant",
    "protein": "protein",
    "bsds300": "BSDS300",
}
SHORT = {  # of names of data that are too long for a table
    "UCI Combined Cycle Power Plant": "power plant",
    "PE given the weather, UCI Combined Cycle Power Plant": "power plant, PE given the weather",
    "UCI Physicochemical Properties of Protein Tertiary Structure": "protein",
    "x9 given x0 to x8, UCI Physicochemical Properties of Protein Tertiary Structure": (
        "protein, x9 given x0 to x8"
    ),
}

# ------------------------------------------------------------------------------------ results.csv


def csv_row(record: Record) -> dict[str, object]:
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


# --------------------------------------------------------------------------------- all the models


def models_table(found: Sequence[Record]) -> str:
    """All models with weights, one a line; the site sorts them by any column."""
    rows = [
        (
            _link(record),
            record.stated.model,
            _data(record),
            _score(entry_of(record)),
            METRICS[entry_of(record).metric].unit,
            f"{record.parameters:,}" if record.parameters else "",
            f"{record.margin:.2f}" if record.margin else "",
            f"{record.facts.minutes:.0f}" if record.facts else "",
        )
        for record in _ranked(found)
    ]
    return markdown("model | class | data | score | unit | parameters | margin | minutes", rows)


def zoo_table(found: Sequence[Record], figures: dict[str, list[dict[str, str]]]) -> str:
    """A table for each data set, the best model first; papers and baselines below the models."""
    sections = []
    for data, models in itertools.groupby(_ranked(found), key=lambda record: record.data):
        group = list(models)
        metric = METRICS[entry_of(group[0]).metric]
        rows = [(_link(record), _score(entry_of(record)), _seeds(record)) for record in group]
        rows += [
            (figure["name"], _figure(figure), figure.get("source", ""))
            for figure in figures.get(data, ())
        ]
        table = markdown(f"model | {metric.unit} | notes", rows)
        if groups := entry_of(group[0]).groups:
            table += f"\n\nErrors are clustered by {groups:,} groups."
        title = _data(group[0])
        sections.append(f"## {title[0].upper()}{title[1:]}\n\n{table}")
    for title, published in (
        ("Recipes without weights", False),
        ("Published checkpoints, to be [converted](../conversion/README.md)", True),
    ):
        links = [
            f"[{record.name}](../hub_configs/{record.name}/{RECIPE})"
            for record in found
            if record.entry is None and record.name.endswith("-published") == published
        ]
        if links:
            sections.append(f"{title}: {', '.join(links)}.")
    return "\n\n".join(sections)


def _ranked(found: Sequence[Record]) -> list[Record]:
    """The models with scores, those of one data set together, the best first."""

    def place(record: Record) -> tuple[str, float]:
        entry = entry_of(record)
        return _data(record).lower(), -METRICS[entry.metric].sign * entry.value

    return sorted((record for record in found if record.entry), key=place)


def _data(record: Record) -> str:
    return SHORT.get(record.data, record.data)


def _link(record: Record) -> str:
    """To the card of a model, or to its recipe if it has no card."""
    file = "" if record.entry else f"/{RECIPE}"
    return f"[{record.name}](../hub_configs/{record.name}{file})"


def _figure(figure: dict[str, str]) -> str:
    return figure["value"] + (f" ± {figure['stderr']}" if figure.get("stderr") else "")


# --------------------------------------------------------------------------------------- families


def of_families(found: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """The models of each table, by their families."""
    named = {record.name: record for record in found if record.entry}
    return {
        title: {
            family: named[f"{prefix}-{data}"]
            for prefix, family in FAMILIES.items()
            if f"{prefix}-{data}" in named
        }
        for data, title in TABLES.items()
    }


def families_table(found: Sequence[Record]) -> str:
    """The score of each family on each table, in nats: higher is better."""
    rows = [
        (title, *(_score(entry_of(own[f])) if f in own else "" for f in FAMILIES.values()))
        for title, own in of_families(found).items()
    ]
    return markdown(f"test nats | {' | '.join(FAMILIES.values())}", rows)


def families_order(found: Sequence[Record]) -> str:
    """The families by their scores on each table."""
    return "\n".join(
        f"- **{title}**: {ranking(own)}." for title, own in of_families(found).items() if own
    )


# ------------------------------------------------------------------------------------------ pairs


def pairs_table(pairs: Sequence[Pair]) -> str:
    """The pairs as a Markdown table; "ahead" is positive where ImpFlow is better."""
    return markdown("data | unit | ImpFlow | ResFlow | ImpFlow ahead by", map(_cells, pairs))


def _cells(pair: Pair) -> tuple[str, ...]:
    gain, error, how = lead(pair)
    remarks = ", unpaired" * (how == "unpaired") + ", level" * is_level(gain, error)
    return (
        _data(pair[0]),
        METRICS[entry_of(pair[0]).metric].unit,
        *(_score(entry_of(record)) for record in pair),
        f"{gain:+.4f} ± {error:.4f}{remarks}",
    )


def _score(entry: Entry) -> str:
    return f"{entry.value:.3f} ± {entry.stderr:.3f}"


def _seeds(record: Record) -> str:
    """Mean and spread over trainings, if there are several."""
    if (several := record.over_seeds) is None:
        return ""
    return f"{several[2]} seeds: {several[0]:.3f} ± {several[1]:.3f}"


def draw_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """Draw the validation curves of all pairs that have some, a line of plots each."""
    curves: list[tuple[str, str, list[Points]]] = []
    for pair in pairs:
        both: list[Points] = [record.facts.curve for record in pair if record.facts]
        if len(both) == 2 and all(both):
            name = pair[0].name.removeprefix("impflow-")
            curves.append((name, entry_of(pair[0]).metric, both))
    draw_curves(curves, ("ImpFlow", "ResFlow"), path)


# ------------------------------------------------------------------------------------------ pages


def documents(root: Path) -> dict[Path, str]:
    """What the generated files of a checkout should hold."""
    found = records(root / "hub_configs")
    figures: dict[str, Any] = yaml.safe_load((root / FIGURES).read_text(encoding="utf-8"))
    rows = pandas.DataFrame([csv_row(record) for record in found], dtype=object)
    scored = [record for record in found if record.entry]
    made = {one.folder.path / CARD: model_card(one, address=one.name) for one in scored}
    made[root / "results.csv"] = as_csv(rows).decode()
    tables: dict[str, Callable[[], str]] = {
        "models table": lambda: models_table(found),
        "zoo table": lambda: zoo_table(found, figures),
        "pairs table": lambda: pairs_table(trained_pairs(found)),
        "pairs ahead": lambda: leads_list(trained_pairs(found)),
        "families table": lambda: families_table(found),
        "families in order": lambda: families_order(found),
        "first score": lambda: _first_score(found),
        "install": lambda: _install("plot"),
        "install with zuko": lambda: _install("plot,zuko"),
        "install with the demo": lambda: _install("demo"),
        "clone": lambda: f"```bash\ngit clone --depth 1 {repository()} && cd impflow_zoo\n```",
    }
    for page in (*sorted(root.glob("*.md")), *sorted((root / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        wanted = [name for name in tables if f"<!-- {name} -->" in text]
        for name in wanted:
            text = between(text, name, tables[name]())
        if wanted:
            made[page] = text
    if (root / SPACE).is_file():
        made[root / SPACE] = re.sub(
            r"^impflow_zoo.*", requirement("demo"), (root / SPACE).read_text(), flags=re.MULTILINE
        )
    return made


def _install(extras: str) -> str:
    return f"```bash\n{install_line(extras)}\n```"


def _first_score(found: Sequence[Record]) -> str:
    """What the code of the home page prints."""
    (entry,) = (entry_of(record) for record in found if record.name == "impflow-power-plant")
    return f"```text\n{entry.value:.3f} +- {entry.stderr:.3f} nats, n = {entry.n}\n```"


def main() -> None:
    """Write all generated files of the checkout."""
    made = {path: text.encode() for path, text in documents(ROOT).items()}
    write_together(made)
    draw_pairs(trained_pairs(records(ROOT / "hub_configs")), ROOT / PICTURE)
    for path in (*made, ROOT / PICTURE):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
