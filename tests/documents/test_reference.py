"""The reference is complete: a page for every public name, a line for every argument."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import pytest
from torch.nn import Module

import impflow_zoo

pytest.importorskip("sphinx", reason="the site needs the extra docs")
api: Any = importlib.import_module("machinery.api")

NAMES = sorted(api.homes())
CONTRACT = [
    name for name in NAMES if api.in_contract(name.rpartition(".")[0]) and api.homes()[name] == name
]
# Methods that the public contract promises, beside the names of `__all__`.
METHODS = {
    "ImpFlow": "from_pretrained log_prob log_prob_with_error sample transform bits_per_dim "
    "save_pretrained push_to_hub to_normflows",
    "ImpFlowTransform": "forward inverse encode decode",
    "SandwichMLP": "certificate",
    "Solver": "solve",
}


def thing(name: str) -> Any:
    module, _, own = name.rpartition(".")
    return getattr(importlib.import_module(module), own)


def described(thing: Any) -> set[str]:
    """Arguments with a line in the docstring, of a class or of those that it derives from."""
    classes = inspect.getmro(thing) if inspect.isclass(thing) else (thing,)
    found: set[str] = set()
    for one in classes:
        text = inspect.cleandoc(one.__doc__ or "")
        section = re.search(r"^Arguments:\n((?: .*\n|\n)*)", text + "\n", re.MULTILINE)
        lines = re.findall(r"^ {4}(\w[\w, ]*):", section[1] if section else "", re.MULTILINE)
        found |= {word for line in lines for word in line.split(", ")}
    return found


@pytest.mark.parametrize(
    ("link", "mended"),
    [
        ("impflow_zoo.evaluate.html#impflow_zoo.evaluate", None),
        ("impflow_zoo.Fit.html#impflow_zoo.Fit.report", None),
        (
            "impflow_zoo.models.registry.html#impflow_zoo.locate",
            "impflow_zoo.models.registry.locate",
        ),
        ("impflow_zoo.data.toys.html#impflow_zoo.data.Toy", "impflow_zoo.data.toys.Toy"),
        (
            "impflow_zoo.register_block.html#impflow_zoo.models.mixed.register_block",
            "impflow_zoo.register_block",
        ),
    ],
)
def test_links_from_source_lead_to_anchors_of_the_page(link: str, mended: str | None) -> None:
    page, _, anchor = link.partition("#")
    found = api.with_own_anchors(f'<a href="../api/{link}">')
    assert found == f'<a href="../api/{page}#{mended or anchor}">'


def test_every_public_name_has_a_page() -> None:
    pages = api.pages()
    assert {f"impflow_zoo.{name}" for name in impflow_zoo.__all__} <= {*NAMES}
    for name in NAMES:
        page = pages[f"{api.page_of(name)}.rst"]
        assert re.search(rf":: {re.escape(api.homes()[name])}$", page, re.MULTILINE), name


def test_the_start_of_the_reference_leads_to_every_page() -> None:
    pages = api.pages()
    for page in pages:
        assert f"]({page.removeprefix('api/')})" in pages["api/index.md"] or "index" in page, page


@pytest.mark.parametrize("name", CONTRACT)
def test_every_argument_has_a_line(name: str) -> None:
    value = thing(name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    assert inspect.getdoc(value)
    if inspect.isclass(value) and issubclass(value, Exception):
        return
    called = value.__init__ if inspect.isclass(value) else value
    arguments = {*inspect.signature(called).parameters} - {"self", "args", "kwargs"}
    assert arguments <= described(value), arguments - described(value)


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name in METHODS for method in METHODS[name].split()]
)
def test_the_methods_of_the_contract_are_described(name: str, method: str) -> None:
    assert inspect.getdoc(getattr(getattr(impflow_zoo, name), method))


@pytest.mark.parametrize("name", CONTRACT)
def test_both_directions_are_described_by_us(name: str) -> None:
    """Else the page has what torch says of any module."""
    value = thing(name)
    if inspect.isclass(value) and issubclass(value, Module):
        own = {method: vars(value).get(method) for method in ("forward", "inverse")}
        assert all(method.__doc__ for method in own.values() if method), own


def test_signatures_of_commands_show_types_alone() -> None:
    given = "(port: ~types.Annotated[int | None, <typer.OptionInfo object at 0x7fb9>] = None)"
    shown, _ = api.whole_signature(None, "function", "demo", None, None, given, "None")
    assert shown == "(port: int | None = None)"


@pytest.mark.parametrize("method", METHODS["ImpFlowTransform"].split())
@pytest.mark.parametrize("block", ["ImpFlowTransform", "ResFlowTransform", "MonotoneTransform"])
def test_methods_of_blocks_state_shapes_and_errors(block: str, method: str) -> None:
    text = inspect.getdoc(getattr(getattr(impflow_zoo, block), method)) or ""
    assert "with shape `[B, ...]`" in text
    assert re.search(r"^Raises:\n +SolverError", text, re.MULTILINE)
