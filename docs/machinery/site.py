"""The extension of Sphinx that makes pages of what stands elsewhere in the repository."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import tables
from leads import trained_pairs
from sphinx.application import Sphinx

from impflow_zoo.zoo.record import records
from machinery import api, llms, models
from machinery.addresses import COPIED, ROOT, for_page

_TASKS = (
    "density_of_a_table",
    "scikit_learn_estimators",
    "unusual_rows",
    "conditional_density",
    "bounded_and_angular_columns",
    "certify_an_inverse",
    "variational_inference",
    "boltzmann_on_a_torus",
    "own_net",
    "own_block",
    "torch_tools",
    "images_from_blocks",
    "many_images",
    "several_processes",
    "convert_a_checkpoint",
    "publish_to_the_hub",
    "sbi_posterior",
    "pyro_guide",
    "deepinv_denoising",
)


class by_task:  # noqa: N801 (sphinx-gallery looks it up by name and calls it)
    """Order of the how-tos: from first steps to rarer tasks."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, file: str) -> int:
        return _TASKS.index(Path(file).stem)


def write(path: Path, text: str) -> None:
    """Write a page, unless it stands there already: Sphinx reads it again if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def make_pages(app: Sphinx) -> None:
    """Write the pages that are made by the build."""
    docs = Path(app.srcdir)
    pages = {
        f"{page}.md": for_page((ROOT / source).read_text("utf-8"), source, page)
        for source, page in COPIED.items()
    }
    found = records(ROOT / "hub_configs")
    pages |= api.pages() | models.pages()
    pages |= {f"made/{name}.md": text for name, text in tables.pages(found).items()}
    for name, text in pages.items():
        write(docs / name, text)
    for folder in ("api", "made", "project", "zoo"):  # of names that are gone
        for path in (docs / folder).iterdir():
            if f"{folder}/{path.name}" not in pages:
                path.unlink()
    tables.draw_pairs(trained_pairs(found), docs / "made" / "pairs.png")


def read_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Turn the links of a guide into links to pages."""
    if (ROOT / "docs" / f"{page}.md").is_file() and page not in COPIED.values():
        source[0] = for_page(source[0], f"docs/{page}.md", page)


def read_included(app: Sphinx, path: Path, page: str, source: list[str]) -> None:
    """Turn the links of what a page includes into links to pages."""
    made = path.parts[0] == "made"
    source[0] = for_page(source[0], f"docs/{page}.md" if made else path.name, page)


def mend_source(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Mend the links of pages with source."""
    if page.startswith("_modules/"):
        context["body"] = api.with_own_anchors(context.get("body", ""))


def finish(app: Sphinx, error: Exception | None) -> None:
    """Add what is no page: `llms.txt`, thumbnails, and the picture that PyPI shows."""
    if error is None and app.builder.format == "html":
        out = Path(app.outdir)
        (out / "llms.txt").write_text(llms.text(app.env), "utf-8")
        models.thumbnails(out / "_static" / "zoo")
        for name in models.README_PICTURES:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, out / name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", make_pages)
    app.connect("source-read", read_page)
    app.connect("include-read", read_included)
    app.connect("html-page-context", mend_source)
    app.connect("build-finished", finish)
    app.connect("viewcode-follow-imported", api.home_of)
    app.connect("doctree-read", api.link_inherited, priority=600)
    app.connect("autodoc-process-signature", api.whole_signature)
    app.connect("autodoc-skip-member", api.of_others)
    app.connect("autodoc-process-docstring", api.as_restructured, priority=400)
    return {"parallel_read_safe": True}
