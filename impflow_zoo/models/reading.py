"""Texts that others wrote, YAML and JSON: read whole and within bounds, or refused in one line."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import yaml

from impflow_zoo.models.fields import ConfigError

__all__ = ["JSON_BYTES", "open_file", "parse_yaml", "read_json", "read_yaml", "readable"]

JSON_BYTES, _YAML_BYTES = 2_000_000, 250_000  # what either parser reads in half a second
_YAML_VALUES, _YAML_DEPTH = 10_000, 30
_DIGITS = 100  # of a number
_OTHER = re.compile(r"[-+]?0[0-9_]+|[^:]+:.*")  # octal numbers of YAML 1.1, and sexagesimal ones


def readable(problem: object) -> str:
    """A problem in one line that fits a screen, whatever the file put into it."""
    text = "".join(c if c.isprintable() else " " for c in str(problem)[:301])
    return text if len(text) <= 300 else f"{text[:300]}..."


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file to read bytes; a pipe would block and a device may never end.

    Raises:
        OSError: if there is no such file, or it is something else than a file.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", os.fspath(path))
    return open(path, "rb")


def read_json(path: Path, name: str) -> Any:
    """The value in a JSON file.

    Arguments:
        path: the file.
        name: what messages call it.

    Raises:
        ConfigError: if the file cannot be read, is too large, is no JSON, or gives a key twice.
    """
    return _parsed(_json, _read(path, name, JSON_BYTES), name, "JSON")


def read_yaml(path: Path, name: str) -> Any:
    """The value in a YAML file; arguments and errors are those of `read_json`."""
    return parse_yaml(_read(path, name, _YAML_BYTES), name)


def parse_yaml(content: bytes, name: str) -> Any:
    """The value of a YAML text; arguments and errors are those of `read_json`."""
    return _parsed(lambda text: yaml.load(text, Loader=_Loader), content, name, "YAML")


def _read(path: Path, name: str, most: int) -> bytes:
    try:
        with open_file(path) as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:  # a name may hold what no name of a file may
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{readable(name)} cannot be read: {reason}") from None
    if len(content) > most:
        raise ConfigError(f"{name} is larger than {most:,} bytes")
    return content


def _parsed(parse: Callable[[str], Any], content: bytes, name: str, language: str) -> Any:
    try:
        return parse(content.decode())
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{name} is not valid {language}: {readable(_reason(error))}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once, parse_int=_whole_number)


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} given twice")
        found[key] = value
    return found


def _whole_number(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


class _Loader(yaml.SafeLoader):
    """Refuses what would take PyYAML long or what it takes for something else.

    An alias counts as all the values that it stands for, so that a few lines cannot stand for a
    billion. Of a key that is given twice PyYAML would take the last.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._count = self._depth = 0
        self._sizes: dict[int, int] = {}  # by node, once it is complete

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        before, alias = self._count, self.check_event(yaml.AliasEvent)
        self._count, self._depth = before + 1, self._depth + 1
        self._refuse(self._depth > _YAML_DEPTH, "it is nested too deeply")
        node = super().compose_node(parent, index)
        if alias:
            self._refuse(id(node) not in self._sizes, "an alias stands for what it is part of")
            self._count = before + self._sizes[id(node)]
        self._refuse(self._count > _YAML_VALUES, f"it has more than {_YAML_VALUES:,} values")
        self._sizes[id(node)] = self._count - before
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        line, kind = node.start_mark.line + 1, node.tag.rpartition(":")[2]
        if kind in ("int", "float"):
            self._refuse(len(node.value) > _DIGITS, f"line {line}: a number has too many digits")
        try:
            found = super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise yaml.YAMLError(f"line {line}: {node.value!r} is no {kind}") from None
        if kind in ("int", "float") and _OTHER.fullmatch(node.value):
            raise yaml.YAMLError(
                f"line {line}: YAML reads {node.value} as {found}: write it another way"
            )
        return found

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                self._refuse(key.value in seen, f"line {line}: {key.value!r} given twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def _refuse(self, condition: bool, message: str) -> None:
        if condition:
            raise yaml.YAMLError(message)
