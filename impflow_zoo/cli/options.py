"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

__all__ = ["AsJson", "Dataset", "Device", "Model", "Seed", "Split", "at_most", "seed_limit"]

Model = Annotated[str, typer.Argument(help="Name from `list`, Hub id, or local folder.")]
Dataset = Annotated[
    str | None,
    typer.Option(help="Hub id, folder, file or toy:NAME; default: the data of the card."),
]
Split = Annotated[
    str | None, typer.Option(help="Split of the data set; default: the split of the card.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Device = Annotated[
    str | None,
    typer.Option(help="Device, such as cpu or cuda:1; default: a GPU if there is one."),
]


def at_most(largest: int) -> Callable[[int | None], int | None]:
    """Refuse larger numbers: no range of typer's, since its end would stand in the help."""

    def checked(value: int | None) -> int | None:
        if value is not None and value > largest:
            raise typer.BadParameter(f"{value} is too large: {largest} at most")
        return value

    return checked


seed_limit = at_most(2**63 - 1)  # what torch takes
Seed = Annotated[
    int,
    typer.Option(min=0, callback=seed_limit, help="Seed of probes, noise and samples."),
]
