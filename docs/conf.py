"""Settings of the site: `python -m sphinx -W docs OUT` builds it."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from importlib.metadata import metadata
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import inspect as sphinx_inspect

os.environ["OMP_NUM_THREADS"] = "1"  # for the how-tos
sys.path.insert(0, str(Path(__file__).parent))
from machinery.links import ROOT, URLS  # beside this file

project = "impflow_zoo"
copyright = "the impflow_zoo authors, MIT licence"
version = release = installed(project)
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.linkcode",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinx_llms_txt",
    "machinery.site",
]
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output
exclude_patterns = ["machinery", "made", "pictures", "templates"]
templates_path = ["templates"]
highlight_language = "text"
pygments_dark_style = "monokai"  # Furo's own underlines modules, as if they were links
default_role = "py:obj"  # `Solver` in a docstring leads to its page

html_theme = "furo"
html_title = "impflow_zoo"
html_baseurl = URLS["Documentation"]
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/icon.svg"
_SCRIPTS = ("tablesort.min.js", "sortable.js", "zoo.js")
html_js_files = [(file, {"defer": "defer"}) for file in _SCRIPTS]
html_search_scorer = str(Path(__file__).parent / "machinery" / "scorer.js")
html_show_sphinx = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0f6c63", "color-brand-content": "#0f6c63"},
    "dark_css_variables": {"color-brand-primary": "#5ec4b6", "color-brand-content": "#5ec4b6"},
}

myst_enable_extensions = ["colon_fence", "html_image"]
myst_heading_anchors = 3
myst_disable_syntax = ["myst_line_comment"]  # a line of text may start with a percent sign

llms_txt_summary = metadata(project)["Summary"]
llms_txt_uri_template = "{base_url}{docname}.html"
llms_txt_full_file = False
llms_txt_exclude = ["zoo/*-*", "how-to/sg_execution_times"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Arguments", "params_style"), "See also"]
napoleon_use_rtype = False
python_maximum_signature_line_length = 88

sphinx_gallery_conf = {
    "examples_dirs": "../examples/how_to",
    "gallery_dirs": "how-to",
    # Pages on other libraries are run by the slow tests: the build does without these libraries.
    "filename_pattern": r"/(?!sbi_|pyro_|deepinv_)\w+\.py$",
    "within_subsection_order": "ExampleTitleSortKey",
    "capture_repr": (),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "min_reported_time": 1e9,  # the builder is busy
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,  # such as the path of a thumbnail
    "reset_modules": (),
    "parallel": 2,
}


def linkcode_resolve(domain: str, described: dict[str, str]) -> str | None:
    """The lines of a class, function, method or property in the repository."""
    if not described["module"]:
        return None
    code: Any = importlib.import_module(described["module"])
    for part in described["fullname"].split("."):
        code = getattr(code, part, None)
    code = inspect.unwrap(getattr(code, "fget", None) or code)
    try:
        path = Path(inspect.getsourcefile(code) or "").relative_to(ROOT)
        lines, first = inspect.getsourcelines(code)
    except (TypeError, ValueError):  # a constant, an attribute, or of another package
        return None
    return f"{URLS['Source']}/blob/main/{path.as_posix()}#L{first}-L{first + len(lines) - 1}"


def whole_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, returned: str
) -> tuple[str, str] | None:
    """Arguments that the Hub's mixin hides, and defaults that Sphinx can parse."""
    if what == "class" and (signature or "").startswith("(*args: "):  # of torch's modules
        return "()", returned
    if what == "class" and signature == "(*args, **kwargs)":
        own = sphinx_inspect.signature(thing.__init__, bound_method=True)
        signature = sphinx_inspect.stringify_signature(
            own, show_return_annotation=False, unqualified_typehints=True
        )
    return (signature.replace("<factory>", "..."), returned) if signature else None


def of_others(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what classes inherit from other packages, which document it."""
    code = getattr(thing, "fget", None) or thing
    module = getattr(code, "__module__", None) or "impflow_zoo"
    return not module.startswith("impflow_zoo") or None


def mark_short_code(app: Sphinx, page: nodes.document, name: str) -> None:
    """Short code in a line of text stays whole, such as an option with its value."""
    for code in page.findall(nodes.literal):
        if len(code.astext()) <= 20:
            code["classes"].append("short")


def break_long_code(
    app: Sphinx, name: str, template: str, context: dict[str, Any], page: nodes.document | None
) -> None:
    """Code in a line of text breaks between words, never within a word or behind two hyphens."""

    def broken(word: re.Match[str]) -> str:
        if len(word[0]) <= 8:  # such as ImpFlow
            return word[0]
        return re.sub(
            r"(?<=[A-Za-z0-9][_./(=,:-])(?=[A-Za-z])|(?<=[a-z])(?=[A-Z])", "<wbr>", word[0]
        )

    context["body"] = re.sub(r'(?<=<span class="pre">)[^<]+', broken, context.get("body", ""))


def keep_numbers_whole(
    app: Sphinx, name: str, template: str, context: dict[str, Any], page: nodes.document | None
) -> None:
    """A number such as 1e-3 does not break behind its hyphen."""

    def whole(part: re.Match[str]) -> str:
        return part[0] if part[0].startswith("<") else f'<span class="number">{part[0]}</span>'

    tag_or_number = r"<[^>]*>|\b\d[\d.]*e-\d+\b"
    context["body"] = re.sub(tag_or_number, whole, context.get("body", ""))


def setup(app: Sphinx) -> None:
    """Register with Sphinx."""
    app.connect("doctree-resolved", mark_short_code)
    app.connect("html-page-context", break_long_code)
    app.connect("html-page-context", keep_numbers_whole)
    app.connect("autodoc-skip-member", of_others)
    app.connect("autodoc-process-signature", whole_signature)
