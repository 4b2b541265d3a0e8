"""Cards, `results.csv`, the tables of the guides and the picture of pairs, from models' folders.

Run in a checkout, after a model was staged or a figure has changed:
    python -m impflow_zoo.tables
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from impflow_zoo import registry
from impflow_zoo.models import layout, writing
from impflow_zoo.models.config import ModelError
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.publishing import pairs
from impflow_zoo.publishing.cards import trained_card
from impflow_zoo.publishing.rows import Row, read_rows, results

__all__ = ["between", "documents", "zoo_table"]

PICTURE = Path("docs") / "pictures" / "pairs.png"


def zoo_table(rows: list[Row]) -> str:
    """Models with weights as a Markdown table, pairs side by side; below it, those without."""
    lines = [
        "| model | class | data | result | parameters | margin | training |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted((row for row in rows if row.value), key=_pairs_together):
        error = f" ± {float(row.stderr):.3f}" if row.stderr else ""
        cells = (
            _link(row),
            row.kind,
            row.data,
            f"{float(row.value):.3f}{error} {METRICS[row.metric].unit}",
            f"{int(row.parameters):,}",
            row.margin,
            f"{float(row.minutes):.0f} min, {row.hardware}" if row.minutes else "",
        )
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    without = sorted((row for row in rows if not row.value), key=_pairs_together)
    for text, published in (
        ("Recipes without weights yet", False),
        ("Published checkpoints, to be [converted](../conversion/README.md)", True),
    ):
        links = [_link(row) for row in without if row.model.endswith("-published") == published]
        if links:
            lines += ["", f"{text}: {', '.join(links)}."]
    return "\n".join(lines)


def _link(row: Row) -> str:
    return f"[{row.model}](../hub_configs/{row.model})"


def _pairs_together(row: Row) -> tuple[str, str]:
    """`impflow-NAME` and `resflow-NAME` sort by what they share."""
    kind, dash, name = row.model.partition("-")
    return (name, kind) if dash else (kind, "")


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
    zoo = root / "hub_configs"
    rows = read_rows(zoo)
    compared = pairs.trained_pairs(rows)
    cards = {
        path.parent / layout.CARD: trained_card(path.parent)
        for path in sorted(zoo.glob(f"*/{layout.RESULTS}"))
    }
    return {
        **cards,
        root / "results.csv": results(rows),
        **{
            root / "docs" / name: between(
                (root / "docs" / name).read_text(encoding="utf-8"), marker, table
            )
            for name, marker, table in (
                ("models.md", "zoo table", zoo_table(rows)),
                ("impflow-beside-resflow.md", "pairs table", pairs.table(compared, zoo)),
            )
        },
    }


def main() -> None:
    """Write them all in the checkout that this package lies in."""
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    root = registry.zoo_folder().parent
    if not (root / "docs").is_dir():
        sys.exit(f"{root} is no checkout of impflow_zoo: there are no docs in it")
    try:
        for path, text in documents(root).items():
            writing.write_whole(path, text.encode())
            print(path)
        zoo = registry.zoo_folder()
        pairs.picture(pairs.trained_pairs(read_rows(zoo)), zoo, root / PICTURE)
        print(root / PICTURE)
    except ModelError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
