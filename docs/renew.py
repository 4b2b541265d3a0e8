"""What follows the version, the addresses of repository and site, or the template of the cards.

Run it in a checkout after one of them has changed:

    pip install -e .
    python docs/renew.py

It writes the install lines of pages, all cards, and what compares the models (as `stage` does).
"""

from __future__ import annotations

import re
from pathlib import Path

from machinery.links import URLS  # beside this file

from impflow_zoo.models.filenames import CARD
from impflow_zoo.models.writing import write_whole
from impflow_zoo.zoo.cards import model_card
from impflow_zoo.zoo.comparison import comparison
from impflow_zoo.zoo.install import install_line, repository, requirement
from impflow_zoo.zoo.markdown import between
from impflow_zoo.zoo.record import records

__all__ = ["renewed"]

ROOT = Path(__file__).parents[1]


def renewed(root: Path) -> dict[Path, str]:
    """What the files of a checkout should hold."""
    zoo = root / "hub_configs"
    made = {
        record.folder.path / CARD: model_card(record, address=record.name)
        for record in records(zoo)
        if record.entry
    }
    made |= comparison(zoo)
    commands = {
        "install": install_line("plot"),
        "install with zuko": install_line("plot,zuko"),
        "install with sklearn": install_line("plot,sklearn"),
        "install with the demo": install_line("demo"),
        "clone": f"git clone --depth 1 {repository()} && cd impflow_zoo",
    }
    places = {name: f"```bash\n{line}\n```" for name, line in commands.items()}
    for page in (*root.glob("*.md"), *root.glob("docs/*.md")):
        text = made.get(page) or page.read_text(encoding="utf-8")
        there = f"[Read this page on the site]({URLS['Documentation']}{page.stem}.html)"
        places["read-on-the-site"] = f"{there}: GitHub does not show all of it."
        for name, content in places.items():
            if f"<!-- {name} -->" in text:
                made[page] = text = between(text, name, content)
    space = root / "space" / "requirements.txt"
    made[space] = re.sub(
        r"^impflow_zoo.*", requirement("demo"), space.read_text("utf-8"), flags=re.MULTILINE
    )
    return made


if __name__ == "__main__":
    for path, text in renewed(ROOT).items():
        write_whole(path, text.encode())
