"""Counts what the package is made of. Run as a script, it prints the figures beside the aims.

`NOW` is what it must not outgrow until it comes down to the aims.

The core is the rooms numerics, lipschitz, fast, transforms and models. Sandwich nets, spline flows
and proved bounds of convolutions, which came after the aims were set, are not counted in lines and
names. The outer rooms are
all others and the conversion, but for the test kit and the blocks of other libraries.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2] / "impflow_zoo"
ROOMS = ("numerics", "lipschitz", "fast", "transforms", "models")
LATER = (
    "sandwich.py",
    "lipsdp.py",
    "convolution_bound.py",
    "spline.py",
    "spline_config.py",
    "classes.py",
    "mixed.py",
    "columns.py",
    "context.py",
    "bounds.py",
    "limits.py",
    "periods.py",
    "torus.py",
    "given.py",
    "predictive.py",
    "conditional_picture.py",
    "mixture.py",
    "yardsticks.py",
    "labels.py",
    "latents.py",
)
ELSEWHERE = ("demo", "testing", "normflows.py", "normflows_nets.py", "zuko.py")
AIMS = {
    "outer lines": 6600,
    "lines": 6600,
    "public names": 120,
    "numeric constants": 40,
    "private names": 3,
}
NOW = {
    "outer lines": 6600,
    "lines": 6600,
    "public names": 109,
    "numeric constants": 12,
    "private names": 2,
}
FORBIDDEN = {
    "ContextVar": r"\bContextVar\b|\bcontextvars\b",
    "state in modules": r"\.__dict__\[|\bsetattr\((?:module|layer|net|block)\b|functional_call\(\w",
    "hooks of tensors": r"_backward_hooks|_post_accumulate_grad_hooks",
    "broad except": r"except (?:Exception|BaseException)?\s*:",
}
# What our own classes, files of weights and torch's extension points are called, by us.
OWN = re.compile(r"self\._|cls\._|_orig\b")


def files(*, all_of_them: bool = False) -> list[Path]:
    """The files that are counted."""
    found = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [path for path in found if all_of_them or path.name not in LATER]


def outer_files() -> list[Path]:
    """The files of the outer rooms."""
    package = [
        path
        for path in sorted(ROOT.rglob("*.py"))
        if path.relative_to(ROOT).parts[0] not in (*ROOMS, *ELSEWHERE)
    ]
    found = [*package, *sorted((ROOT.parent / "conversion").rglob("*.py"))]
    return [path for path in found if path.name not in LATER]


def lines(counted: list[Path]) -> int:
    """Lines of files."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in counted)


def public_names() -> list[str]:
    """What `__all__` of each file lists."""
    return [name for path in files() for name in _assigned_list(path)]


def _assigned_list(path: Path) -> list[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def constants() -> list[str]:
    """Numbers that files give a name to at their top, tuples of numbers counted one by one."""
    found = []
    for path in files():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign):
                targets = node.targets[0]
                names = targets.elts if isinstance(targets, ast.Tuple) else [targets]
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                values = values if len(values) == len(names) else [node.value] * len(names)
                found += [
                    f"{path.name}: {ast.unparse(name)}"
                    for name, value in zip(names, values, strict=True)
                    if _is_number(value)
                ]
    return found


def _is_number(node: ast.expr) -> bool:
    parts = [part for part in ast.walk(node) if isinstance(part, ast.Constant)]
    plain = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)
    return (
        bool(parts)
        and all(isinstance(part, plain) for part in ast.walk(node))
        and all(type(part.value) in (int, float) for part in parts)
    )


def private_names() -> set[str]:
    """Names of torch and nflows that begin with an underscore, looked up by the core."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files(all_of_them=True)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    own = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    own |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own |= {text for n in nodes for text in _registered(n)}
    found = set()
    for node in nodes:
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own:
            found.add(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("torch", "nflows")):
            found |= {alias.name for alias in node.names if _is_private(alias.name)}
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and text not in own and re.fullmatch(r"(torch\.)?_[a-z]\w+", text):
            found.add(text)
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def _registered(node: ast.AST) -> list[str]:
    """The name of a buffer that a call registers, or of an entry put into `self.__dict__`."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "self.__dict__":
        return [ast.unparse(node.slice).strip("'")] if isinstance(node.ctx, ast.Store) else []
    call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return [ast.unparse(node.args[0]).strip("'")] if call == "self.register_buffer" else []


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def forbidden() -> list[str]:
    """What the core has none of, where it has it all the same."""
    return [
        f"{path.name}: {what}"
        for path in files(all_of_them=True)
        for what, pattern in FORBIDDEN.items()
        if re.search(pattern, path.read_text(encoding="utf-8"))
    ]


def figures() -> dict[str, int]:
    """The figures that have limits."""
    return {
        "outer lines": lines(outer_files()),
        "lines": lines(files()),
        "public names": len(public_names()),
        "numeric constants": len(constants()),
        "private names": len(private_names()),
    }


if __name__ == "__main__":
    for name, figure in figures().items():
        print(f"{name}: {figure} of {AIMS[name]}")
    print("private:", ", ".join(sorted(private_names())))
    print("forbidden:", ", ".join(forbidden()) or "nothing")
    if "-v" in sys.argv:
        print("constants:", "; ".join(constants()))
        print("names:", ", ".join(public_names()))
