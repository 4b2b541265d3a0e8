"""What users state of columns: bounds and periods, as settings of a config."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from impflow_zoo.data.names import in_quotes
from impflow_zoo.models.fields import ModelError
from impflow_zoo.numerics.settings import is_real

__all__ = ["as_options", "stated_settings"]


def stated_settings(bounds: Any, periodic: Any) -> dict[str, dict[str, Any]]:
    """Bounds and periods of columns as YAML and JSON have them; those that are empty are left out.

    Arguments:
        bounds: pairs by name of a column. None or infinity stands for an open end. Numbers may be
            numpy's.
        periodic: periods by name of a column, or pairs, the ends of a turn.

    Raises:
        ModelError: if they are no dictionaries, bounds no pairs, or periods no numbers or pairs. A
            config checks the rest.
    """
    for option, value in (("bounds", bounds), ("periodic", periodic)):
        if not isinstance(value, Mapping):
            raise ModelError(f"{option}={value!r}: a dictionary by names of columns is needed")
    found = {
        "bounds": {name: _ends(name, ends) for name, ends in bounds.items()},
        "periodic": {name: _turn(name, period) for name, period in periodic.items()},
    }
    return {option: values for option, values in found.items() if values}


def as_options(stated: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Bounds and periods as the command line takes them.

    Arguments:
        stated: bounds and periods, as `stated_settings` returns them.

    Example:
        >>> as_options({"bounds": {"size": [0, None], "share": [0, 1]}, "periodic": {"angle": 360}})
        {'bounds': 'size=0:,share=0:1', 'periodic': 'angle=360'}
    """

    def text(value: Any) -> str:
        ends = value if isinstance(value, list) else [value]
        return ":".join("" if end is None else repr(float(end)).removesuffix(".0") for end in ends)

    return {
        option: ",".join(f"{in_quotes(name)}={text(value)}" for name, value in values.items())
        for option, values in stated.items()
    }


def _ends(name: str, ends: Any) -> list[Any]:
    if isinstance(ends, str) or not isinstance(ends, Iterable):
        raise ModelError(f"bounds of {name}={ends!r}: (low, high) is needed, None where open")
    return [None if end in (-math.inf, math.inf) else end for end in map(_plain, ends)]


def _turn(name: str, turn: Any) -> Any:
    turn = turn.tolist() if hasattr(turn, "tolist") else turn  # of numpy or torch
    pair = isinstance(turn, list | tuple)
    ends = [*map(_plain, turn)] if pair else [turn]
    if len(ends) != 1 + pair or not all(map(is_real, ends)):
        raise ModelError(
            f"periodic of {name}={turn!r}: a number is needed, or the ends of a turn, (low, high)"
        )
    return ends if pair else turn


def _plain(number: Any) -> Any:
    """A number of Python in the place of numpy's or torch's."""
    return number.item() if hasattr(number, "item") else number
