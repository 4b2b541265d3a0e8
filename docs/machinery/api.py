"""Pages of the reference: one for every name of the package, one for every file with names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

from docutils.nodes import document
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.viewcode import viewcode_anchor
from sphinx.util import inspect as sphinx_inspect
from torch.nn import Module
from typer.testing import CliRunner

import impflow_zoo
from impflow_zoo.cli import app

# What guides import from, beside the files of `transforms`: these names are versioned.
CONTRACT = ("", "normflows", "zuko", "sklearn", "testing", "data", "evaluation", "models.registry")
_SECTIONS = {
    "From a table": "fit Fit train",
    "Models": "ImpFlow ResFlow MonotoneFlow SplineFlow LinearGaussian MixtureDensityNetwork "
    "Ensemble",
    "Configs": "TabularConfig ImageConfig SplineConfig MixtureConfig LinearGaussianConfig",
    "The zoo": "create_model list_models evaluate register_model register_block",
    "Blocks": "ImpFlowTransform ResFlowTransform MonotoneTransform RadialTransform",
    "Nets": "LipschitzMLP SandwichMLP LipschitzConvNet LipschitzDenseNet",
    "Numerics": "Solver LogDet SolverError NumericalWarning",
}


@cache
def modules() -> dict[str, ModuleType]:
    """All files that have an `__all__`, the package first, those above before those below."""
    found = pkgutil.walk_packages(impflow_zoo.__path__, "impflow_zoo.")
    names = [module.name for module in found if not module.name.endswith("__main__")]
    named = {name: importlib.import_module(name) for name in ("impflow_zoo", *names)}
    having = [name for name in named if hasattr(named[name], "__all__")]
    return {name: named[name] for name in sorted(having, key=lambda name: name.count("."))}


@cache
def homes() -> dict[str, str]:
    """Where each public name is described: `module.name` by itself, or by the first that has it."""
    first: dict[Any, str] = {}
    found = {}
    for module, contents in modules().items():
        for name in contents.__all__:
            value = getattr(contents, name)
            code = inspect.isclass(value) or inspect.isfunction(value)
            key = (value.__module__, value.__qualname__) if code else (name, id(value))
            found[f"{module}.{name}"] = first.setdefault(key, f"{module}.{name}")
    return found


def in_contract(module: str) -> bool:
    """Whether the names of a file are part of the versioned contract."""
    inside = module.removeprefix("impflow_zoo").removeprefix(".")
    return inside in CONTRACT or inside.startswith("transforms")


def page_of(name: str) -> str:
    """The page that describes a public name, `module.name`."""
    home = homes()[name]
    module = home.rpartition(".")[0]
    return f"api/{home if module == 'impflow_zoo' else module}"


def pages() -> dict[str, str]:
    """All pages of the reference."""
    made = {"api/index.md": _index(), "api/command-line.md": _command_line()}
    for name in impflow_zoo.__all__:
        made[f"api/impflow_zoo.{name}.rst"] = _title(name) + _described("impflow_zoo", name)
    for module, contents in modules().items():
        if module != "impflow_zoo":
            # This keeps navigation and results of a search short.
            text = "" if in_contract(module) else ":orphan:\n:nosearch:\n\n"
            text += _title(module) + f".. automodule:: {module}\n\n"
            text += "".join(_described(module, name) for name in contents.__all__)
            made[f"api/{module}.rst"] = text
    return made


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n\n"


def _described(module: str, name: str) -> str:
    """The directive for a name, or a link to where it is described."""
    full = f"{module}.{name}"
    if (home := homes()[full]) != full:
        return f"`{name}` is described at :py:obj:`{home}`.\n\n"
    value = getattr(importlib.import_module(module), name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f".. py:data:: {full}\n\n   {_comment(module, name)}\n\n"
    if inspect.isfunction(value):
        return f".. autofunction:: {full}\n\n"
    options = "   :members:\n   :show-inheritance:\n"
    if issubclass(value, Module) and module == "impflow_zoo":  # what bases of ours define
        options += "   :inherited-members: Module, PyTorchModelHubMixin\n"
    return f".. autoclass:: {full}\n{options}\n"


def _comment(module: str, name: str) -> str:
    """What the file says of a constant, above it or beside it."""
    source = inspect.getsource(importlib.import_module(module))
    found = re.search(rf"((?:^# .*\n)*)^{name}\b[^#\n]*(#.*)?$", source, re.MULTILINE)
    text = " ".join((found[1] + (found[2] or "")).replace("# ", "").split()) if found else ""
    return text or f"Of type `{type(getattr(importlib.import_module(module), name)).__name__}`."


def _index() -> str:
    package = modules()
    about = "The public names of the package. Names and signatures are versioned."
    lines = ["# API", "", about, ""]
    for section, names in _SECTIONS.items():
        lines += [f"## {section}", "", "| name | what |", "|---|---|"]
        lines += [
            f"| [`{name}`](impflow_zoo.{name}.rst) | {_first_line(getattr(impflow_zoo, name))} |"
            for name in names.split()
        ]
        lines.append("")
    contract = [name for name in package if in_contract(name) and name != "impflow_zoo"]
    others = [name for name in package if not in_contract(name)]
    lines += ["## Other libraries, data, layers, tests", "", *_table(contract), ""]
    lines += ["## On the command line", "", "[`impflow-zoo`](command-line.md)", ""]
    lines += [
        "## Internal modules",
        "",
        "Names that the files of the package import from each other. They may change. "
        "[Architecture](../architecture.md) describes how the files work together.",
        "",
        *_table(others),
        "",
    ]
    known = [f"impflow_zoo.{name}" for names in _SECTIONS.values() for name in names.split()]
    return "\n".join([*lines, *_toctree([*known, *contract, "command-line"])])


def _table(names: list[str]) -> Iterator[str]:
    yield from ("| file | what |", "|---|---|")
    for name in names:
        yield f"| [`{name}`]({name}.rst) | {_first_line(modules()[name])} |"


def _first_line(thing: object) -> str:
    text = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|")


def _toctree(names: list[str]) -> list[str]:
    return ["```{toctree}", ":hidden:", "", *names, "```", ""]


def _command_line() -> str:
    """The help of every command, as it is printed."""
    commands = [known.name or known.callback.__name__ for known in app.registered_commands]
    lines = ["# Command line", ""]
    for words in ([], *([name] for name in commands)):
        shown = CliRunner().invoke(
            app, [*words, "--help"], prog_name="impflow-zoo", env={"COLUMNS": "88"}
        )
        lines += [f"## `{' '.join(['impflow-zoo', *words])}`", ""]
        lines += ["```text", shown.output.strip(), "```", ""]
    return "\n".join(lines)


def whole_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, returned: str
) -> tuple[str, str] | None:
    """Arguments that the class of a model hides, types without the help of commands, and defaults
    that Sphinx can parse.
    """
    signature = re.sub(r"~?[\w.]*Annotated\[(.*?), <[^<>]*>\]", r"\1", signature or "")
    if what == "class" and signature == "(*args, **kwargs)":
        own = sphinx_inspect.signature(thing.__init__, bound_method=True)
        signature = sphinx_inspect.stringify_signature(
            own, show_return_annotation=False, unqualified_typehints=True
        )
    return (signature.replace("<factory>", "..."), returned) if signature else None


def _code_of(module: str, name: str) -> Any:
    """The function behind a name of a file, `Class.method`; of a property the one that reads it."""
    thing: Any = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part, None)
    return inspect.unwrap(getattr(thing, "fget", None) or getattr(thing, "__func__", thing))


def home_of(app: Sphinx, module: str | None, name: str) -> str | None:
    """The file that a name is defined in; without this, `viewcode` links no properties."""
    return getattr(_code_of(module, name), "__module__", None) if module else None


def link_inherited(app: Sphinx, doctree: document) -> None:
    """Lead from inherited methods to their source: `viewcode` links those of the class itself."""
    for described in doctree.findall(addnodes.desc_signature):
        if not described.get("module") or any(described.findall(viewcode_anchor)):
            continue  # not of a file, or linked
        code = _code_of(described["module"], described["fullname"])
        module, method = getattr(code, "__module__", ""), getattr(code, "__qualname__", "")
        owner, dot, _ = method.partition(".")
        if dot and module in modules() and owner in modules()[module].__all__:
            page = f"_modules/{module.replace('.', '/')}"
            described += viewcode_anchor(reftarget=page, refid=method, refdoc=app.env.docname)


def with_own_anchors(body: str) -> str:
    """A page with source, whose links back to the reference lead to the anchors that are there.

    Sphinx takes all names of a file for names of the module by which it met the first.
    """
    known = modules()

    def link(found: re.Match[str]) -> str:
        start, page, anchor = found.groups()
        module = anchor.rpartition(".")[0]
        while module not in known:
            module = module.rpartition(".")[0]
        home = page if page in known else "impflow_zoo"
        return f"{start}{page}.html#{home}{anchor.removeprefix(module)}"

    return re.sub(r'(href="[^"]*api/)(impflow_zoo[\w.]*)\.html#(impflow_zoo\.[\w.]+)', link, body)


def of_others(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what torch and the Hub's mixin document, but for one method of the contract."""
    module = getattr(thing, "__module__", None) or "impflow_zoo"
    ours = module.startswith("impflow_zoo") and name != "extra_repr"  # documented by torch
    return not (ours or name == "push_to_hub") or None


def as_restructured(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Mark blocks that are indented: they are code or formulas."""
    if name.endswith(".push_to_hub"):
        lines[:] = ["Save the model and upload it, as `huggingface_hub.PyTorchModelHubMixin` does."]
    for at in range(len(lines) - 2, 0, -1):
        above, here, below = lines[at - 1], lines[at], lines[at + 1]
        if not here and below.startswith("    ") and above and not above.startswith(" "):
            lines[at:at] = ["", "::"]
