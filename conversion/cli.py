"""The command: `python -m conversion CHECKPOINT.pth OUT_FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from conversion.architecture import Settings
from conversion.convert import Converted, convert, write
from impflow_zoo.mistakes import in_one_line
from impflow_zoo.models.folder import WEIGHTS

__all__ = ["main"]


def command(
    checkpoint: Annotated[Path, typer.Argument(help="The file that the script saved.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the model.")],
    weights: Annotated[
        Literal["ema", "raw"] | None,
        typer.Option(help="Averaged or raw weights; default: averaged where the file has them."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting instead of the file's."),
    ] = None,
    norms: Annotated[
        Literal["stored", "converged"],
        typer.Option(
            help="Power vectors as they were saved (the public code's values), or converged (nets "
            "keep within their bound)."
        ),
    ] = "stored",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Round trip, finite densities and certificate on noise, written into the card.",
        ),
    ] = False,
    golden: Annotated[
        int | None,
        typer.Option(
            help="Rows of the golden batch; default: 8, none for large models, where it takes "
            "minutes."
        ),
    ] = None,
) -> None:
    """Turn a checkpoint of the public ImpFlow or Residual Flow scripts into a model folder.

    The pickle in it is read, not run.
    """
    converted = convert(
        checkpoint,
        weights=weights,
        overrides=Settings.parse(settings or []),
        converge=norms == "converged",
    )
    outcome = write(converted, folder, verify=verify, golden=golden)
    for line in [*_report(converted, folder), *(outcome.lines() if outcome else [])]:
        print(line)


def main() -> None:
    """Run the command; mistakes end in one line and exit code 2."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)
    with in_one_line("conversion"):
        app(prog_name="python -m conversion")


def _report(converted: Converted, folder: Path) -> list[str]:
    written = (folder / WEIGHTS).stat().st_size
    model = converted.model
    count = sum(p.numel() for p in model.parameters())
    kind = "averaged" if converted.averaged else "raw"
    return [
        f"{type(model).__name__} with {len(list(model.blocks()))} blocks, {count:,} parameters, "
        f"{kind} weights",
        f"{converted.checkpoint_bytes / 1e6:.2f} MB read, {written / 1e6:.2f} MB written: "
        f"{len(converted.weights)} tensors; {converted.dropped} of copies and estimators and the "
        "optimizer's state dropped",
        f"written to {folder}",
    ]
