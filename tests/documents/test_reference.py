"""The reference is complete: every public name is listed, every argument has a line."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.checkout import CHECKOUT
from torch.nn import Module

import impflow_zoo

PAGE = (CHECKOUT / "docs" / "api.md").read_text(encoding="utf-8")
LISTED = [f"impflow_zoo.{name}" for name in re.findall(r"^   ([\w.]+)$", PAGE, re.MULTILINE)]
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


def promised() -> Iterator[str]:
    """The modules that are promised not to change."""
    text = (CHECKOUT / "UPGRADING.md").read_text(encoding="utf-8")
    names = re.search(r"^- the names of (.*?);$", text, re.MULTILINE | re.DOTALL)
    assert names
    for name in re.findall(r"`([\w.]+)`", names[1]):
        module = importlib.import_module(f"impflow_zoo{name.removeprefix('impflow_zoo')}")
        inner = pkgutil.iter_modules(module.__path__) if name == ".transforms" else ()
        yield from [module.__name__, *(f"{module.__name__}.{file.name}" for file in inner)]


@pytest.mark.parametrize("module", [*promised()])
def test_every_public_name_is_listed(module: str) -> None:
    known = [thing(name) for name in LISTED]
    for name in getattr(importlib.import_module(module), "__all__", ()):
        assert any(thing(f"{module}.{name}") is one for one in known), name


@pytest.mark.parametrize("name", LISTED)
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


@pytest.mark.parametrize("name", LISTED)
def test_both_directions_are_described_by_us(name: str) -> None:
    """Else the page has what torch says of any module."""
    value = thing(name)
    if inspect.isclass(value) and issubclass(value, Module):
        own = {method: vars(value).get(method) for method in ("forward", "inverse")}
        assert all(method.__doc__ for method in own.values() if method), own


@pytest.mark.parametrize("method", METHODS["ImpFlowTransform"].split())
@pytest.mark.parametrize("block", ["ImpFlowTransform", "ResFlowTransform", "MonotoneTransform"])
def test_methods_of_blocks_state_shapes_and_errors(block: str, method: str) -> None:
    text = inspect.getdoc(getattr(getattr(impflow_zoo, block), method)) or ""
    assert "with shape `[B, ...]`" in text
    assert re.search(r"^Raises:\n +SolverError", text, re.MULTILINE)
