"""The classes of models that recipes and config files name, in one registry.

Another package adds a class with `register_model`. If it also declares an entry point of the group
`impflow_zoo.models`, with the name of the class, the command line finds the class as well.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar

from impflow_zoo.models.fields import ConfigError, ModelError

if TYPE_CHECKING:
    from impflow_zoo.models.config import Config
    from impflow_zoo.models.density import Density
    from impflow_zoo.models.flow import FlowModel

__all__ = [
    "config_kinds",
    "family_of",
    "model_class",
    "model_names",
    "names_of",
    "redefined",
    "register_model",
    "registered",
    "registered_name",
    "require_config",
]

_CLASSES: dict[str, type[FlowModel]] = {}

M = TypeVar("M", bound="type[FlowModel]")
T = TypeVar("T")


def register_model(cls: M) -> M:
    """Let recipes and config files name a model class; a decorator.

    The same definition may run again, as in a notebook. The new class then takes the name.

    Arguments:
        cls: the class. Its `config_types` are frozen dataclasses that derive from
            `impflow_zoo.models.columns.ColumnsConfig` or from `ImageConfig`, each with a `kind` of
            its own.

    Raises:
        ModelError: if the name, or the kind of a config, belongs to another class, or a config has
            no kind.
    """
    known, kinds = _CLASSES.get(cls.__name__, cls), config_kinds()
    if not redefined(known, cls):
        raise ModelError(f"{cls.__name__} is already registered, by {known.__module__}")
    for config in cls.config_types:
        if not hasattr(config, "kind"):
            raise ModelError(f"{config.__name__} has no `kind`, by which files name it")
        if not redefined(kinds.get(config.kind, config), config):
            raise ModelError(f"configs of kind {config.kind!r} belong to another model")
    _CLASSES[cls.__name__] = cls
    return cls


def redefined(known: object, new: object) -> bool:
    """Whether one definition was run again, as a notebook's cell may be."""
    places = [
        (getattr(thing, "__module__", thing), getattr(thing, "__qualname__", thing))
        for thing in (known, new)
    ]
    return places[0] == places[1]


def config_kinds() -> dict[str, type[Config]]:
    """What the classes are made from, by the kind that files name."""
    return {config.kind: config for cls in _CLASSES.values() for config in cls.config_types}


def model_names() -> list[str]:
    """Names of all classes, those of entry points included."""
    return names_of("model", _CLASSES)


def model_class(name: object) -> type[FlowModel]:
    """The class of a name.

    Raises:
        ConfigError: if there is none.
    """
    return registered("model", name, _CLASSES)


def family_of(block: str) -> str | None:
    """The class of models that a kind of block belongs to, None if it belongs to none."""
    return next((name for name, cls in _CLASSES.items() if block in cls.block_kinds), None)


def names_of(what: str, own: Mapping[str, object]) -> list[str]:
    """What is registered, and the entry points of other packages."""
    entries = entry_points(group=f"impflow_zoo.{what}s")
    return sorted({*own, *(entry.name for entry in entries)})


def registered(what: str, name: object, own: Mapping[str, T]) -> T:
    """What is registered by a name; its entry point is loaded first, which registers it.

    Raises:
        ConfigError: if there is nothing, listing what there is.
    """
    if isinstance(name, str) and name not in own:
        for entry in entry_points(group=f"impflow_zoo.{what}s", name=name):
            entry.load()
    if not isinstance(name, str) or name not in own:
        known = ", ".join(names_of(what, own))
        raise ConfigError(
            f"unknown {what} {reprlib.repr(name)}: there are {known}; one of your own has to be "
            f"imported first, or declared as an entry point of impflow_zoo.{what}s"
        )
    return own[name]


def registered_name(cls: type) -> str | None:
    """Name of the registered class that a class is or derives from, the nearest one."""
    return next((c.__name__ for c in cls.__mro__ if _CLASSES.get(c.__name__) is c), None)


def require_config(cls: type[Density], config: object) -> None:
    """Refuse a config that a class is not made from, or whose blocks are all of another class.

    Raises:
        ConfigError: naming the kinds that it is made from, or the other class.
    """
    if not isinstance(config, cls.config_types):
        kinds = " or ".join(repr(known.kind) for known in cls.config_types)
        found = repr(getattr(config, "kind", type(config).__name__))
        raise ConfigError(f"{cls.__name__} takes a config of kind {kinds}, not {found}")
    families = {family_of(block) for block in config.block_names}
    family = families.pop() if len(families) == 1 else None
    if family is None or not set(config.block_names).isdisjoint(cls.block_kinds):
        return
    if isinstance(config, _CLASSES[family].config_types):
        raise ConfigError(f"all blocks are of {family}: name it as the model, not {cls.__name__}")
