"""Where a file of the repository is found on the site.

`BASE` is the one address that links from elsewhere (PyPI, the Hub) start with. It stands in
`pyproject.toml`, as the project's `Documentation`.
"""

from __future__ import annotations

import os
import posixpath
import re
import tomllib
from pathlib import Path

ROOT = Path(os.path.abspath(__file__)).parents[2]
_URLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
BASE, SOURCE = _URLS["Documentation"], _URLS["Source"]
# Documents outside `docs`, and the pages that the build makes of them.
COPIED = {
    "CONTRIBUTING.md": "project/contributing",
    "SECURITY.md": "project/security",
    "CHANGELOG.md": "project/changelog",
    "UPGRADING.md": "project/upgrading",
    "MODEL_CARD.md": "project/model-card",
    "conversion/README.md": "project/conversion",
}
# The laboratory, which the site is built without where a copy of the repository has none.
_LABORATORY = "benchmarks/"
COPIED |= {
    f"{_LABORATORY}{file.name}": "project/benchmarks"
    for file in (ROOT / _LABORATORY).glob("README.md")
}
COPIED |= {
    f"{_LABORATORY}notebook/{file.name}": f"project/notebook-{file.stem}"
    for file in sorted((ROOT / _LABORATORY / "notebook").glob("*.md"))
}
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")


def page_of(path: str) -> str | None:
    """The page that shows a file or folder of the repository; None if there is none.

    Arguments:
        path: from the root of the repository.
    """
    if model := re.fullmatch(r"hub_configs/([\w-]+)(/README\.md)?/?", path):
        return f"zoo/{model[1]}"
    if how_to := re.fullmatch(r"examples/how_to(/\w+)?(\.py)?/?", path):
        return f"how-to{how_to[1] or '/index'}"
    if guide := re.fullmatch(r"docs/([\w-]+)\.md", path):
        return guide[1]
    return "start" if path == "README.md" else COPIED.get(path)


def for_page(text: str, source: str, page: str) -> str:
    """The text of a document whose links are right on a page of the site.

    Arguments:
        text: Markdown.
        source: the document, from the root of the repository.
        page: where its text is shown.
    """

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        start = posixpath.join("docs", posixpath.dirname(page))
        to = page_of(target)
        if to is None and not (ROOT / target).exists():
            if target.startswith(_LABORATORY):
                return f"{SOURCE}/blob/main/{target}{found[2] or ''}"
            return found[0]  # no link, or a wrong one, which the build complains of
        made_by_gallery = to is not None and to.startswith("how-to/")
        there = target if to is None else f"docs/{to}.{'rst' if made_by_gallery else 'md'}"
        return posixpath.relpath(there, start) + (found[2] or "")

    return _LINK.sub(link, text)


def absolute(text: str) -> str:
    """The README as PyPI shows it: every link of it starts with `BASE`."""

    def link(found: re.Match[str]) -> str:
        page = page_of(posixpath.normpath(found[1]))
        return BASE + (found[1] if page is None else f"{page}.html") + (found[2] or "")

    return _LINK.sub(link, text)
