"""`results.csv` and the README's zoo table, made from the models' folders.

Run in a checkout, after a card has changed:
    python -m impflow_zoo.tables
"""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from impflow_zoo import registry
from impflow_zoo.cards import TRAINING, TrainingFacts
from impflow_zoo.evaluation import UNITS
from impflow_zoo.models import layout, store, writing
from impflow_zoo.models.config import ModelError
from impflow_zoo.recipe import Recipe, read_recipe

__all__ = ["Row", "between", "documents", "read_rows", "results", "with_table", "zoo_table"]

BEGIN, END = "<!-- zoo table -->", "<!-- end of zoo table -->"


@dataclass(frozen=True)
class Row:
    """A model, as far as its folder tells; fields that nothing tells are empty.

    Arguments:
        model, kind, data: name of the model, its class, its data.
        metric, value, stderr, estimator_stderr, n: the result on its card.
        parameters: how many trainable numbers.
        margin: `1 - L`, with the largest certified Lipschitz constant `L` of its nets.
        rows_seen, minutes, hardware: what its training cost.
        data_license: of the data.
        sha256: of the weights.
    """

    model: str
    kind: str
    data: str
    metric: str
    value: str
    stderr: str
    estimator_stderr: str
    n: str
    parameters: str
    margin: str
    rows_seen: str
    minutes: str
    hardware: str
    data_license: str
    sha256: str


def read_rows(zoo: Path) -> list[Row]:
    """One row for every folder that has a recipe."""
    return [_read(path.parent) for path in sorted(zoo.glob(f"*/{layout.RECIPE}"))]


def _read(folder: Path) -> Row:
    recipe, files = read_recipe(folder / layout.RECIPE), layout.open_files(folder)
    trained = files.has(layout.CONFIG)
    config_file = (
        store.read_config(files) if trained else store.ConfigFile(recipe.model, recipe.config)
    )
    result = registry.published_result(files)
    figures = {} if result is None else dict(result.metric_args or {})
    facts = TrainingFacts.read(folder) if files.has(TRAINING) else None
    return Row(
        model=folder.name,
        kind=config_file.model,
        data=_data_name(recipe),
        metric=config_file.config.metric,
        value="" if result is None else str(result.metric_value),
        stderr=str(figures.get("stderr", "")),
        estimator_stderr=str(figures.get("estimator_stderr", "")),
        n=str(figures.get("n", "")),
        parameters=str(registry.parameter_count(config_file)),
        margin=_margin(config_file),
        rows_seen="" if facts is None else str(facts.rows_seen),
        minutes="" if facts is None else str(facts.minutes),
        hardware="" if facts is None else facts.hardware,
        data_license=recipe.card.data_license,
        sha256=config_file.sha256 or "",
    )


def _data_name(recipe: Recipe) -> str:
    return recipe.card.data_name or recipe.data.dataset or ""


def _margin(config_file: store.ConfigFile) -> str:
    bounds = [c.bound for c in config_file.certificate]
    known = [b for b in bounds if b is not None]
    return f"{1 - max(known):.4f}" if known and len(known) == len(bounds) else ""


def results(rows: list[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def zoo_table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| model | class | data | result | parameters | margin | training |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        result, training = "no weights yet", ""
        if row.value:
            error = f" ± {float(row.stderr):.3f}" if row.stderr else ""
            result = f"{float(row.value):.3f}{error} {UNITS[row.metric]}"
        if row.minutes:
            training = f"{float(row.minutes):.0f} min, {row.hardware}"
        cells = (
            f"[{row.model}](hub_configs/{row.model})",
            row.kind,
            row.data,
            result,
            f"{int(row.parameters):,}",
            row.margin,
            training,
        )
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def with_table(readme: str, table: str) -> str:
    """The README with the table between its markers; a section is added if it has none."""
    if BEGIN not in readme or END not in readme:
        readme = f"{readme.rstrip()}\n\n## The zoo\n\n{BEGIN}\n{END}\n"
    return between(readme, "zoo table", table)


def between(text: str, name: str, content: str) -> str:
    """A text with something else between the markers of a name.

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
    rows = read_rows(root / "hub_configs")
    readme = root / "README.md"
    return {
        root / "results.csv": results(rows),
        readme: with_table(readme.read_text(encoding="utf-8"), zoo_table(rows)),
    }


def main() -> None:
    """Write `results.csv` and the README's table of the checkout that this package lies in."""
    root = registry.zoo_folder().parent
    if not (root / "README.md").is_file():
        sys.exit(f"{root} is no checkout of impflow_zoo: there is no README.md in it")
    try:
        for path, text in documents(root).items():
            writing.write_whole(path, text.encode())
            print(path)
    except ModelError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
