"""The rooms of the package: imports run downwards, in no circle, and the page names what exists."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from support.checkout import CHECKOUT

PACKAGE = CHECKOUT / "impflow_zoo"
PAGE = CHECKOUT / "docs" / "architecture.md"

# Each room may import those before it.
ROOMS = [
    *("numerics", "lipschitz", "fast", "transforms", "normflows", "data", "models"),
    *("evaluation", "plots", "training", "fitting", "zoo", "demo", "cli"),
]


def imported(path: Path, *, for_types: bool = True) -> set[str]:
    """The files that a file imports anywhere, as `room/file.py` or `room/__init__.py`.

    Arguments:
        path: the file.
        for_types: also what it imports for annotations alone, under `if TYPE_CHECKING`.
    """
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not for_types:
        tree.body = [n for n in tree.body if not isinstance(n, ast.If)]
    for node in ast.walk(tree):
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


def test_no_file_imports_itself_through_others():
    # `graphlib` raises `CycleError`, which names the files of a circle.
    graph = {file: imported(path, for_types=False) for file, path in FILES.items()}
    TopologicalSorter(graph).prepare()


def test_every_file_stands_in_a_room():
    loose = {file for file in FILES if "/" not in file}
    assert loose == {"__init__.py", "__main__.py", "sklearn.py", "zuko.py"}
    assert {file.split("/")[0] for file in FILES} - loose == {*ROOMS, "testing"}


def test_the_files_of_the_page_exist():
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 20
    for name in named:
        assert (PACKAGE / name).exists() or (CHECKOUT / name).exists(), name
