"""Arguments and options that several commands have."""

from __future__ import annotations

import csv
import io
import math
from typing import Annotated

import typer

from impflow_zoo.models.fields import ModelError

__all__ = [
    "AsJson",
    "Dataset",
    "Device",
    "Model",
    "Seed",
    "Split",
    "between_commas",
    "by_name",
    "number",
    "seed_limit",
]

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name from `list`, Hub id, or local folder.")
]
Dataset = Annotated[
    str | None,
    typer.Option(
        metavar="DATA", help="Hub id, folder, file or toy:NAME; default: the data of the card."
    ),
]
Split = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Split of the data set; default: the split of the card."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE", help="Device, such as cpu or cuda:1; default: a GPU if there is one."
    ),
]


_LARGEST_SEED = 2**63 - 1  # what torch takes


def seed_limit(value: int | None) -> int | None:
    """Refuse larger seeds: no range of typer's, since its end would stand in the help."""
    if value is not None and value > _LARGEST_SEED:
        raise typer.BadParameter(f"{value} is too large: {_LARGEST_SEED} at most")
    return value


def between_commas(text: str) -> list[str]:
    """The names of a list; one with a comma, or a space in front, stands in double quotes.

    Example:
        >>> between_commas('Water, "Cement, dry", " Ash"')
        ['Water', 'Cement, dry', ' Ash']
    """
    lines = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    return [cell.rstrip() for line in lines for cell in line]


def by_name(option: str, text: str) -> dict[str, str]:
    """The values of `NAME=VALUE,...`; a name may have a `=`, too.

    Raises:
        ModelError: if a name has no value, or two.

    Example:
        >>> by_name("--given", 'Water=40, "Cement, dry"=20')
        {'Water': '40', 'Cement, dry': '20'}
    """
    found: dict[str, str] = {}
    for pair in between_commas(text):
        name, equals, value = pair.rpartition("=")
        if not equals:
            raise ModelError(
                f"{option}: {pair!r} has no value: NAME=VALUE is needed, and double quotes around "
                "a name with a comma"
            )
        name = name.rstrip()
        if name in found:
            raise ModelError(f"{option}: {name} is given twice")
        found[name] = value.strip()
    return found


def number(option: str, name: str, text: str) -> float:
    """A finite number, as the value of a name.

    Raises:
        ModelError: if it is none.
    """
    try:
        value = float(text)
    except ValueError:
        raise ModelError(f"{option}: {name}={text!r} is not a number") from None
    if not math.isfinite(value):
        raise ModelError(f"{option}: {name}={text} is not finite")
    return value


Seed = Annotated[
    int,
    typer.Option(
        metavar="SEED", min=0, callback=seed_limit, help="Seed of probes, noise and samples."
    ),
]
