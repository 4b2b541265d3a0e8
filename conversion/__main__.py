"""The command: `python -m conversion CHECKPOINT.pth OUT_FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from conversion.convert import convert, write
from conversion.pickles import ConversionError
from impflow_zoo.models.mistakes import in_one_line

__all__ = ["main"]


def command(
    checkpoint: Annotated[Path, typer.Argument(help="The file that the script saved.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the model.")],
    weights: Annotated[
        Literal["ema", "raw"] | None,
        typer.Option(help="Averaged or raw weights; default: averaged if the file has them."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Override a setting of the file."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Check a round trip and densities of noise, and note it in the card; for large "
            "models also make a golden batch, which takes minutes.",
        ),
    ] = False,
) -> None:
    """Turn a checkpoint of the public ImpFlow or Residual Flow scripts into a model folder.

    No code in the checkpoint is run.
    """
    overrides = {}
    for word in settings or []:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConversionError(f"--set {word!r}: use the form name=value")
        overrides[name.replace("-", "_")] = value
    converted = convert(checkpoint, weights=weights, overrides=overrides)
    known = write(converted, folder, verify=verify)
    model, kind = converted.model, "averaged" if converted.averaged else "raw"
    print(
        f"{type(model).__name__} with {len(list(model.blocks()))} blocks, {kind} weights: "
        f"{len(converted.names)} tensors written to {folder}",
        *known,
        sep="\n",
    )


def main() -> None:
    """Run the command; mistakes end in one line and exit code 2."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)
    with in_one_line("conversion"):
        app(prog_name="python -m conversion")


if __name__ == "__main__":
    main()
