"""Settings of the site: `python -m sphinx -W docs OUT` builds it."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # the how-tos print run times of one thread
sys.path.insert(0, str(Path(__file__).parent))
from machinery.addresses import BASE  # beside this file

project = "impflow_zoo"
copyright = "the impflow_zoo authors, MIT licence"
version = release = installed(project)
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "machinery.site",
]
viewcode_line_numbers = True
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output
exclude_patterns = ["machinery", "made", "pictures"]
highlight_language = "text"
default_role = "py:obj"  # `Solver` in a docstring leads to its page

html_theme = "furo"
html_title = "impflow_zoo"
html_baseurl = BASE
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [(file, {"defer": "defer"}) for file in ("tablesort.min.js", "sortable.js")]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0f6c63", "color-brand-content": "#0f6c63"},
    "dark_css_variables": {"color-brand-primary": "#5ec4b6", "color-brand-content": "#5ec4b6"},
}

myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 3
myst_disable_syntax = ["myst_line_comment"]  # a line may start with a percent sign

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
    "within_subsection_order": "machinery.site.by_task",
    "capture_repr": (),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "min_reported_time": 0,
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,  # such as the path of a thumbnail
    "reset_modules": (),
}
