"""Checks of settings: strict types, ranges, choices, devices.

`convert` is our own, as Pydantic, cattrs and msgspec take no fewer lines for the same strictness,
and seconds instead of milliseconds for large wrong lists.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import reprlib
import sys
import types
import typing
from typing import Any

import torch

from impflow_zoo.data.names import listed
from impflow_zoo.numerics.settings import is_real, is_whole
from impflow_zoo.numerics.solver import Solver

__all__ = [
    "MOST_BLOCKS",
    "ConfigError",
    "ModelError",
    "convert",
    "convert_fields",
    "did_you_mean",
    "require",
    "require_choice",
    "require_names",
    "require_sizes",
    "require_tolerances",
    "usable_device",
]

MOST_BLOCKS = 1000  # of a model, or of one of its scales


class ModelError(ValueError):
    """A model cannot be built, loaded or saved; the message says why and what helps."""


class ConfigError(ModelError):
    """A setting of a model is unknown, missing, or out of its range."""


def did_you_mean(name: object, known: typing.Iterable[str]) -> str:
    """The end of a message about an unknown name: a known one that is close, or nothing."""
    close = difflib.get_close_matches(str(name)[:50], list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Refuse a setting that is out of its range."""
    if not condition:
        raise ConfigError(f"{name}={reprlib.repr(value)}: {expected} expected")


def require_names(setting: str, found: typing.Iterable[str], known: typing.Iterable[str]) -> None:
    """Refuse names of columns that there are not; a close one is proposed, or all are told."""
    names = dict.fromkeys(known)
    for name in found:
        if name not in names:
            told = f"the columns are {listed(names)}" if names else "list all under 'columns'"
            hint = did_you_mean(name, names) or f"; {told}"
            raise ConfigError(f"{setting}: there is no column {reprlib.repr(name)}{hint}")


def require_choice(name: str, value: str, choices: typing.Iterable[str]) -> None:
    """Refuse a setting that is not one of the choices."""
    known = tuple(choices)
    if value not in known:
        raise ConfigError(f"unknown {name} {value!r}: choose {', '.join(known)}")


def require_sizes(settings: Any, *names: str, most: int = 1_000_000) -> None:
    """Refuse fields with a size below 1 or above a limit, or with over 100 sizes; None has none."""
    for name in names:
        value = getattr(settings, name)
        sizes = value if isinstance(value, tuple) else () if value is None else (value,)
        require(len(sizes) <= 100, name, value, "100 sizes at most")
        require(all(size >= 1 for size in sizes), name, value, "at least 1")
        require(all(size <= most for size in sizes), name, value, f"at most {most:,}")


def require_tolerances(solver: Solver) -> None:
    """Refuse tolerances that any number would meet."""
    for name in ("rtol", "atol", "backward_rtol"):
        value = getattr(solver, name)
        require(value is None or value <= 1, f"solver.{name}", value, "at most 1")


def usable_device(device: str | torch.device) -> torch.device:
    """The device, if something can be put there; else a `ModelError` with what torch says."""
    try:
        torch.empty(0, device=device).cpu()  # "meta" holds no numbers
    except (AssertionError, ImportError, RuntimeError) as error:  # a torch without CUDA asserts
        said = str(error).split("\n")[0][:200].rstrip(".")
        raise ModelError(
            f"device={str(device)!r}: {said}; use cpu, cuda or cuda:1, for example"
        ) from None
    return torch.device(device)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields, which take long to find out."""
    return typing.get_type_hints(cls)


def parse_dataclass(cls: type, data: dict[str, Any], path: str) -> Any:
    """Build a dataclass from its fields as JSON objects; `path` stands before their names."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            hint = did_you_mean(key, fields)
            raise ConfigError(f"unknown config key {path + str(key)!r}{hint}")
    for name, f in fields.items():
        absent = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if absent and name not in data:
            raise ConfigError(f"config key {path + name!r} is missing")
    hints = _hints(cls)
    values = {k: convert(v, hints[k], path + k) for k, v in data.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def convert_fields(settings: Any) -> None:
    """Give the fields of a frozen dataclass their types, in `__post_init__`, by `convert`."""
    kind: Any = type(settings)
    hints = _hints(kind)
    for f in dataclasses.fields(settings):
        value = convert(getattr(settings, f.name), hints[f.name], f.name)
        object.__setattr__(settings, f.name, value)


def convert(value: Any, annotation: Any, key: str) -> Any:
    """A value, of JSON or Python, as an annotation asks for it, or a `ConfigError` with the key.

    Annotations are `int`, `float`, `str`, `bool`, dataclasses, `Literal`, lists, tuples of any
    length and dictionaries of these, and unions of one with None, with a list, or with both.
    """
    origin, kinds = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in kinds:
            return None
        lists = [kind for kind in kinds if typing.get_origin(kind) in (list, tuple)]
        is_list = lists and isinstance(value, (list, tuple))
        return convert(value, lists[0] if is_list else kinds[0], key)
    is_number, is_list = annotation in (int, float), origin in (list, tuple)
    if dataclasses.is_dataclass(annotation):
        if isinstance(value, typing.cast(type, annotation)):
            return value
        if isinstance(value, dict):
            return parse_dataclass(typing.cast(type, annotation), value, f"{key}.")
    elif is_list and isinstance(value, (list, tuple)):
        items = (convert(v, kinds[0], f"{key}[{i}]") for i, v in enumerate(value))
        return list(items) if origin is list else tuple(items)
    elif origin is dict and isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {name: convert(v, kinds[1], f"{key}.{name}") for name, v in value.items()}
    elif is_number and (is_whole(value) if annotation is int else is_real(value)):
        if abs(value) < (2**63 if annotation is int else sys.float_info.max):  # also not NaN
            return annotation(value)
    elif origin is typing.Literal:
        if (type(value), value) in ((type(k), k) for k in kinds):
            return value
    elif type(value) is annotation:
        return value
    raise ConfigError(
        f"config key {key!r} is {reprlib.repr(value)}: {_expected(value, annotation)}"
    )


def _expected(value: Any, annotation: Any) -> str:
    """What an annotation asks for, with an example where a value is nearly right."""
    origin, kinds = typing.get_origin(annotation), typing.get_args(annotation)
    if dataclasses.is_dataclass(annotation):
        known = listed([f.name for f in dataclasses.fields(annotation)])
        return f"settings by name expected, of {known}"
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, kinds))} expected"
    if origin in (list, tuple):
        return f"list expected{f', such as [{value}]' if is_real(value) else ''}"
    text = value[:40] if annotation in (int, float) and isinstance(value, str) else ""
    number = re.fullmatch(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", text, re.IGNORECASE)
    hint = ", without quotes, such as 1000 or 1.0e-3" if number else ""  # YAML: `1e-3` is text
    return f"{getattr(annotation, '__name__', annotation)} expected{hint}"
