"""The command `impflow-zoo demo`."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="First model: name from `list`, Hub id, or local folder."
        ),
    ] = "impflow-power-plant",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Rows to show beside samples: Hub id, folder, file or toy:NAME."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Split of the data.")] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=1, max=65535, help="Default: the first free one from 7860."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Where to compute, such as cuda:1; default: a GPU if there is one.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Host name of a proxy in front of the demo; may be repeated."
        ),
    ] = None,
) -> None:
    """Show a model in the browser; Ctrl-C stops."""
    from impflow_zoo.demo.server import serve

    names = allowed_host or ()
    serve(model, data, split, host=host, port=port, device=device, allowed_hosts=names)
