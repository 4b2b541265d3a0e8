"""The rooms of the package: imports run downwards, and the page names what exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from support.checkout import CHECKOUT

PACKAGE = CHECKOUT / "impflow_zoo"
PAGE = CHECKOUT / "docs" / "architecture.md"

# Each room may import those before it.
ROOMS = [
    *("numerics", "lipschitz", "transforms", "normflows", "data", "models"),
    *("evaluation", "plots", "training", "fitting", "zoo", "demo", "cli"),
]


def imported(path: Path) -> set[str]:
    """The files that a file imports anywhere, as `room/file.py` or `room/__init__.py`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names.update(name if file_of(name) else node.module for name in inside)
    return {file for name in names if (file := file_of(name))}


def file_of(module: str) -> str | None:
    root, *parts = module.split(".")
    if root != "impflow_zoo" or not parts:
        return None
    for path in (Path(*parts).with_suffix(".py"), Path(*parts, "__init__.py")):
        if (PACKAGE / path).is_file():
            return path.as_posix()
    return None


FILES = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}


def room(file: str) -> str:
    return file.split("/")[0]


def test_imports_between_rooms_run_downwards():
    for file, path in FILES.items():
        if room(file) in ROOMS:
            below = ROOMS[: ROOMS.index(room(file)) + 1]
            assert {room(other) for other in imported(path)} <= {*below}, file


def test_every_file_stands_in_a_room():
    loose = {file for file in FILES if "/" not in file}
    assert loose == {"__init__.py", "__main__.py", "sklearn.py", "zuko.py"}
    assert {file.split("/")[0] for file in FILES} - loose == {*ROOMS, "testing"}


def test_the_files_of_the_page_exist():
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 20
    for name in named:
        assert (PACKAGE / name).exists() or (CHECKOUT / name).exists(), name
