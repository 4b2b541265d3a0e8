"""Names of nets that a person can read."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["in_words"]


def in_words(paths: Sequence[str]) -> list[str]:
    """Names of nets by their paths in a model: each part that has a number is counted from 1.

    The last such part is a block, those above it are scales, or else models of an ensemble. A part
    without others beside it is left out, unless it is the block.

    Example:
        >>> in_words(["flow.2._transforms.1.net", "flow.2._transforms.3.net"])
        ['block 1, net', 'block 2, net']
    """
    beside: dict[str, dict[str, int]] = {}  # by the path above: numbers of its parts
    found = []
    for path in paths:
        *above, name = path.split(".")
        places = [i for i, part in enumerate(above) if part.isdigit()]
        levels = []
        for i in places:
            numbers = beside.setdefault(".".join(above[:i]), {})
            levels.append((numbers, numbers.setdefault(above[i], len(numbers) + 1), above[i - 1]))
        found.append((levels, name))
    words = []
    for levels, name in found:
        said = [
            f"{'scale' if kind == '_transforms' else 'model'} {number}"
            for numbers, number, kind in levels[:-1]
            if len(numbers) > 1
        ]
        said += [f"block {number}" for _, number, _ in levels[-1:]]
        words.append(", ".join([*said, name]))
    return words
