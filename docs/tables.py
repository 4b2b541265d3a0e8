"""The tables of the site: all models, those of each data set, families, pairs.

They are made while the site is built, from the folders of the models and, for papers and baselines,
from `figures.yaml`. A page has a place for one between `<!-- NAME -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from leads import Pair, entry_of, is_level, lead, leads_list, ranking, trained_once, trained_pairs
from typer.testing import CliRunner

from impflow_zoo.cli import app as commands
from impflow_zoo.models.filenames import RECIPE
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.plots.pictures import Points, draw_curves
from impflow_zoo.zoo.comparison import of_families, score
from impflow_zoo.zoo.markdown import markdown
from impflow_zoo.zoo.record import Record

__all__ = ["by_data_set", "draw_pairs", "models_table", "pages", "pairs_table"]

FIGURES = Path(__file__).parent / "figures.yaml"
_CURVES = """<details>
<summary>All pairs: the validation value against rows seen, and against time</summary>

![Validation value against rows seen and against time](made/pairs.png)

</details>"""
SHORT = {  # of names of data that are too long for a table
    "UCI Combined Cycle Power Plant": "power plant",
    "PE given the weather, UCI Combined Cycle Power Plant": "power plant, PE given the weather",
    "UCI Physicochemical Properties of Protein Tertiary Structure": "protein",
    "x9 given x0 to x8, UCI Physicochemical Properties of Protein Tertiary Structure": (
        "protein, x9 given x0 to x8"
    ),
}


def pages(found: Sequence[Record]) -> dict[str, str]:
    """The tables by their names."""
    figures = yaml.safe_load(FIGURES.read_text("utf-8"))
    pairs = trained_pairs(found)
    return {
        "models": models_table(found),
        "by-data-set": by_data_set(found, figures),
        "families-in-order": families_in_order(found),
        "pairs": f"{pairs_table(pairs)}\n\n{_CURVES}",
        "leads": leads_list(pairs),
        "first-score": first_score(found),
        "first-evaluation": first_evaluation(),
        "read-on-the-site": "",  # readers of the site are there already
    }


def models_table(found: Sequence[Record]) -> str:
    """All models with weights, one a line; the site sorts them by any column."""
    rows = [
        (
            _link(record),
            f"{score(record)} {METRICS[entry_of(record).metric].unit}",
            _data(record),
            f"{record.parameters:,}" if record.parameters else "",
            f"{record.margin:.2f}" if record.margin else "",
            f"{record.facts.minutes:.0f}" if record.facts else "",
        )
        for record in _ranked(found)
    ]
    return markdown("model | score | data | parameters | margin | minutes", rows)


def by_data_set(found: Sequence[Record], figures: dict[str, list[dict[str, str]]]) -> str:
    """A table for each data set, the best model first; papers and baselines below the models."""
    sections = []
    for data, models in itertools.groupby(_ranked(found), key=lambda record: record.data):
        group = list(models)
        rows = [(_link(record), score(record), _seeds(record)) for record in group]
        for known in figures.get(data, ()):
            error = f" ± {known['stderr']}" if "stderr" in known else ""
            rows.append((known["name"], known["value"] + error, known["source"]))
        entry = entry_of(group[0])
        title = _data(group[0])
        section = f"### {title[0].upper()}{title[1:]}\n\n"
        section += markdown(f"model | {METRICS[entry.metric].unit} | notes", rows)
        if entry.groups:
            section += f"\n\nErrors are clustered by {entry.groups:,} groups."
        sections.append(section)
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
    return f"[{record.name}](../hub_configs/{record.name})"


def _seeds(record: Record) -> str:
    """Mean and spread over trainings, if there are several."""
    if (several := record.over_seeds) is None:
        return ""
    return f"{several[2]} seeds: {several[0]:.3f} ± {several[1]:.3f}"


def families_in_order(found: Sequence[Record]) -> str:
    """The families by their scores on each table."""
    return "\n".join(
        f"- **{title}**: {ranking(own)}." for title, own in of_families(found).items() if own
    )


def first_score(found: Sequence[Record]) -> str:
    """What the code of the home page prints."""
    (entry,) = (entry_of(record) for record in found if record.name == "impflow-power-plant")
    return f"```text\n{entry.value:.3f} +- {entry.stderr:.3f} nats, n = {entry.n}\n```"


def first_evaluation() -> str:
    """What the first command of the guide prints, less the folder and the time of this machine."""
    shown = CliRunner().invoke(commands, ["evaluate", "impflow-power-plant"])
    text = re.sub(r"^(data +).*(?=/hub_configs)", r"\1...", shown.stdout, flags=re.MULTILINE)
    text = re.sub(r"^time .*\n", "", text, flags=re.MULTILINE)
    return f"```text\n{text.strip()}\n```"


def pairs_table(pairs: Sequence[Pair]) -> str:
    """The pairs, a line each; "ahead" is positive where ImpFlow is better."""
    return markdown("data | unit | ImpFlow | ResFlow | ImpFlow ahead by", map(_cells, pairs))


def _cells(pair: Pair) -> tuple[str, ...]:
    gain, error, how = lead(pair)
    remarks = ", unpaired" * (how == "unpaired")
    remarks += ", level" * is_level(gain, error) or ", trained once" * trained_once(pair)
    unit = METRICS[entry_of(pair[0]).metric].unit
    return _data(pair[0]), unit, *map(score, pair), f"{gain:+.4f} ± {error:.4f}{remarks}"


def draw_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """Draw the validation curves of all pairs that have some, a line of plots each."""
    curves: list[tuple[str, str, list[Points]]] = []
    for pair in pairs:
        both: list[Points] = [record.facts.curve for record in pair if record.facts]
        if len(both) == 2 and all(both):
            name = pair[0].name.removeprefix("impflow-")
            curves.append((name, entry_of(pair[0]).metric, both))
    draw_curves(curves, ("ImpFlow", "ResFlow"), path)
