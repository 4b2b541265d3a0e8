"""What is imported when: heavy libraries only by what needs them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection
from graphlib import TopologicalSorter
from pathlib import Path

import impflow_zoo

HEAVY = (
    "datasets",
    "normflows",
    "pandas",
    "pyarrow",
    "sklearn",
    "typer",
    "accelerate",
    "zuko",
    "gradio",
)
PROBE = """
import sys
{below}
before = set(sys.modules)
import impflow_zoo
import impflow_zoo.data
print(*(m for m in {heavy} if m in sys.modules))
print(*(m for m in ("matplotlib.pyplot", "jinja2") if m in set(sys.modules) - before))
print(*(m for m in sys.modules if m.startswith(("impflow_zoo.fitting", "impflow_zoo.training"))))
"""


def test_importing_the_package_imports_nothing_heavy():
    """nflows itself imports matplotlib; we add nothing to that."""
    code = PROBE.format(below="import nflows.flows, huggingface_hub", heavy=HEAVY)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


PACKAGE = Path(impflow_zoo.__file__).parent


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        *parts, name = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts if name == "__init__" else (*parts, name))] = path
    return found


# Each room may import those before it.
ROOMS = [
    *("numerics", "lipschitz", "transforms", "normflows", "data", "models"),
    *("evaluation", "plots", "training", "zoo", "fitting", "demo", "cli"),
]


def imported(path: Path, known: Collection[str], *, for_types: bool = False) -> set[str]:
    """The modules among the known ones that a file imports, for types alone only if asked for."""
    found = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if for_types or not types:
            nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & set(known)


def room(module: str) -> str:
    """The room of a module; that of a file beside the rooms is its own name."""
    return module.split(".")[1]


def test_rooms_import_downwards():
    known = modules()
    inside = known.keys() - {"impflow_zoo"}
    for name in inside:
        if room(name) in ROOMS:
            below = ROOMS[: ROOMS.index(room(name)) + 1]
            others = imported(known[name], inside, for_types=True)
            assert {room(other) for other in others} <= {*below}, name


def test_every_file_stands_in_a_room():
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__", "__main__", "sklearn", "zuko"}
    assert {room(name) for name in modules().keys() - {"impflow_zoo"}} == {
        *(loose - {"__init__"}),
        *ROOMS,
        "testing",
    }


def test_imports_have_no_circles():
    known = modules()
    below = {name: imported(path, known) - {name, "impflow_zoo"} for name, path in known.items()}
    assert below["impflow_zoo.models.flow"]
    list(TopologicalSorter(below).static_order())  # raises CycleError, with the circle


def public(path: Path) -> set[str] | None:
    """The names in a module's `__all__`, if it has one."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def test_modules_import_what_other_rooms_declare_public():
    """Within a room files use each other as they like: `__all__` is what the room offers."""
    known = modules()
    declared = {name: public(path) for name, path in known.items()}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            module = node.module or ""
            if module in known and name.split(".")[:2] != module.split(".")[:2]:
                taken = {alias.name for alias in node.names}
                taken -= {m.rpartition(".")[2] for m in known if m.startswith(f"{node.module}.")}
                assert taken <= (declared[module] or set()), f"{name} from {module}"
