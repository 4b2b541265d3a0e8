"""Links between documents, right on GitHub as they are written, and on the site as pages.

No extension knows where a folder of a model, a script or a document outside of `docs` has its page.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
# Documents outside `docs`, and the pages that the build makes of them.
COPIED = {
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "UPGRADING.md": "project/upgrading.md",
    "MODEL_CARD.md": "project/model-card.md",
    "conversion/README.md": "project/conversion.md",
    "benchmarks/README.md": "project/benchmarks.md",
} | {
    f"benchmarks/notebook/{file.name}": f"project/notebook-{file.name}"
    for file in sorted((ROOT / "benchmarks" / "notebook").glob("*.md"))
}
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")


def page_of(path: str) -> str | None:
    """The page that shows a file or folder of the repository; None if there is none.

    Arguments:
        path: from the root of the repository.
    """
    if model := re.fullmatch(r"hub_configs/([\w-]+)(/README\.md)?", path):
        return f"zoo/{model[1]}.md"
    if how_to := re.fullmatch(r"examples/how_to(/\w+)?(\.py)?", path):
        return f"how-to{how_to[1] or '/index'}.rst"
    if guide := re.fullmatch(r"docs/(.+\.md)", path):
        return guide[1]
    if path in (named := {"README.md": "start.md", "hub_configs": "zoo/index.md"}):
        return named[path]
    return COPIED.get(path) if (ROOT / path).exists() else None


def for_site(text: str, source: str) -> str:
    """The text of a document with links that start at the folder `docs`.

    Arguments:
        text: Markdown.
        source: the document, from the root of the repository.
    """

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        if page := page_of(target):
            return f"/{page}"
        if (ROOT / target).exists():
            return f"/{posixpath.relpath(target, 'docs')}"
        if "benchmarks/" in found[1]:  # a copy may lack the laboratory
            return f"{URLS['Source']}/blob/main/{target}"
        return found[0]  # no link, or a wrong one, which the build complains of

    return _LINK.sub(link, text)
