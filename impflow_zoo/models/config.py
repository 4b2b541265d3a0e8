"""The kinds of configs, and how they are read: frozen dataclasses stored as JSON."""

from __future__ import annotations

import dataclasses
import importlib
import reprlib
from typing import Any

from impflow_zoo.models.classes import config_kinds
from impflow_zoo.models.columns import ColumnsConfig
from impflow_zoo.models.fields import ConfigError, parse_dataclass
from impflow_zoo.models.image_config import ImageConfig

__all__ = ["Config", "parse"]

Config = ColumnsConfig | ImageConfig


def to_json(config: Config) -> dict[str, Any]:
    """The config as JSON objects, its kind first."""
    return {"kind": config.kind, **dataclasses.asdict(config)}


def parse(data: Any) -> Config:
    """Build a config from JSON objects; a `ConfigError` names what is unknown, missing or wrong."""
    if not isinstance(data, dict):
        found = "nothing" if data is None else reprlib.repr(data)
        raise ConfigError(f"config holds {found}: settings by name are needed")
    rest = dict(data)
    kind, kinds = rest.pop("kind", None), config_kinds()
    if kind is None:
        raise ConfigError(f"config key 'kind' is missing: {' or '.join(kinds)}")
    if isinstance(kind, str) and kind.startswith("published-"):
        kinds |= importlib.import_module("impflow_zoo.models.published").KINDS
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(
            f"unknown kind of model {reprlib.repr(kind)}: this version knows {', '.join(kinds)}"
        )
    names = {known: {f.name for f in dataclasses.fields(cls)} for known, cls in kinds.items()}
    for key in rest:
        others = [repr(known) for known in names if key in names[known]]
        if others and key not in names[kind]:
            raise ConfigError(
                f"config key {key!r} belongs to kind {' or '.join(others)}, not {kind!r}"
            )
    return parse_dataclass(kinds[kind], rest, "")
