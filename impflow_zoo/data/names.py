"""Names of columns, labels and files in messages and on cards, as the command line takes them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable

__all__ = ["all_listed", "in_quotes", "listed", "shortened"]

_LISTED = 20  # names


def in_quotes(name: str) -> str:
    """A name as lists on the command line hold it, see `cli.options.between_commas`.

    Example:
        >>> in_quotes("Water"), in_quotes("Cement, dry"), in_quotes(" Ash")
        ('Water', '"Cement, dry"', '" Ash"')
    """
    plain = name == name.strip() and "," not in name and '"' not in name
    return name if plain else '"' + name.replace('"', '""') + '"'


def all_listed(names: Iterable[str]) -> str:
    """Names in a line, however many there are."""
    return ", ".join(map(in_quotes, names))


def listed(names: Collection[str]) -> str:
    """Names in a line; of many, the first ones and how many more there are."""
    return shortened([*map(in_quotes, names)])


def shortened(texts: Collection[str]) -> str:
    """Texts in a line, as they are; of many, the first ones and how many more there are."""
    more = f" and {len(texts) - _LISTED:,} more" if len(texts) > _LISTED else ""
    return ", ".join(itertools.islice(texts, _LISTED)) + more
