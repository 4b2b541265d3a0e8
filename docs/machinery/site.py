"""The extension of Sphinx that makes pages of what stands elsewhere in the repository."""

from __future__ import annotations

from pathlib import Path

import tables
from leads import trained_pairs
from sphinx.application import Sphinx
from typer.testing import CliRunner

from impflow_zoo.cli import app as commands
from impflow_zoo.zoo.markdown import between
from impflow_zoo.zoo.record import records
from machinery import gallery
from machinery.links import COPIED, ROOT, for_site


def _command_line() -> str:
    """The help of every command, as it is printed; `sphinxcontrib-typer` needs one made by rich."""
    names = [known.name or known.callback.__name__ for known in commands.registered_commands]
    page = "# Command line\n"
    for words in ([], *([name] for name in names)):
        shown = CliRunner().invoke(
            commands, [*words, "--help"], prog_name="impflow-zoo", env={"COLUMNS": "88"}
        )
        title = " ".join(["impflow-zoo", *words])
        page += f"\n## `{title}`\n\n```text\n{shown.output.strip()}\n```\n"
    return page


def _first_steps() -> str:
    """What the README says of running, fitting and using."""
    text = (ROOT / "README.md").read_text("utf-8")
    return for_site(text[text.index("## Run\n") : text.index("## Guides\n")], "README.md")


def make_pages(app: Sphinx) -> None:
    """Write the pages and tables that are made by the build."""
    docs, found = Path(app.srcdir), records(ROOT / "hub_configs")
    pages = {
        page: for_site((ROOT / source).read_text("utf-8"), source)
        for source, page in COPIED.items()
        if (ROOT / source).is_file()
    }
    pages |= {"api/command-line.md": _command_line(), **gallery.pages(found)}
    pages |= {
        f"made/{name}.md": for_site(text, "docs/models.md")
        for name, text in tables.pages(found).items()
    }
    pages["made/first-steps.md"] = _first_steps()
    for name, text in pages.items():
        path = docs / name
        path.parent.mkdir(exist_ok=True)
        if not path.is_file() or path.read_text("utf-8") != text:  # Sphinx reads it again if new
            path.write_text(text, "utf-8")
    listed = (docs / "api.md").read_text("utf-8").split()
    known = {*pages, *(f"api/impflow_zoo.{name}.rst" for name in listed)}
    for folder in ("api", "made", "project", "zoo"):  # of names that are gone
        for path in (docs / folder).iterdir():
            if f"{folder}/{path.name}" not in known:
                path.unlink()
    tables.draw_pairs(trained_pairs(found), docs / "made" / "pairs.png")


def read_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Turn the links of a guide into links to pages, and put what the build makes into its place.

    Such a place is between `<!-- NAME -->` and `<!-- end of NAME -->`, of `made/NAME.md`. On GitHub
    it shows the sentence that stands there.
    """
    text = source[0] if "/" in page else for_site(source[0], f"docs/{page}.md")
    for file in (Path(app.srcdir) / "made").glob("*.md"):
        if f"<!-- {file.stem} -->" in text:
            text = between(text, file.stem, file.read_text("utf-8"))
            app.env.note_dependency(file)
    source[0] = text.replace(" ± ", "\u00a0±\u00a0")  # a number stays beside its error


def finish(app: Sphinx, error: Exception | None) -> None:
    """Add the small pictures of the gallery."""
    if error is None and app.builder.format == "html":
        gallery.thumbnails(records(ROOT / "hub_configs"), Path(app.outdir) / "_static" / "zoo")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", make_pages)
    app.connect("source-read", read_page)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True}
