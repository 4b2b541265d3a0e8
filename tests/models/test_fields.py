"""A config of somebody else's: its fields have the types that annotations say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Optional, Union

import pytest

from impflow_zoo.models.fields import ConfigError, convert, convert_fields


@dataclass(frozen=True)
class Settings:
    size: Optional[int] = None  # noqa: UP045 - others write it
    sizes: Union[int, list[float]] = 1  # noqa: UP007
    mode: Literal["fast", "exact", 2] = "fast"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        convert_fields(self)


def test_values_take_the_types_of_their_annotations():
    data = {"size": 3, "sizes": [1, 2.5], "mode": 2, "names": ["a", "b"]}
    found = convert(data, Settings, "settings")
    assert found == Settings(3, [1.0, 2.5], 2, ("a", "b"))
    assert Settings(names=["a"]).names == ("a",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"size": "3"}, "'s.size' is '3': int .*without quotes"),
        ({"size": True}, "'s.size' is True: int expected"),
        ({"sizes": [1, "a"]}, r"'s.sizes\[1\]' is 'a': float expected"),
        ({"mode": "slow"}, "'s.mode' is 'slow': .*'fast', 'exact', 2 "),
        ({"mode": 2.0}, "'s.mode' is 2.0: one of"),
        ({"names": 5}, r"'s.names' is 5: list .*\[5\]"),
        ({"names": str}, "'s.names' is <class 'str'>: list expected"),
        ({"nmaes": []}, "unknown config key 's.nmaes'.*'names'"),
        ([], r"'s' is \[\]: settings by name expected, of .*size, .*names"),
    ],
)
def test_what_is_wrong_is_named(data: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        convert(data, Settings, "s")
