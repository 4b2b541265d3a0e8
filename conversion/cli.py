"""The command: `python -m conversion CHECKPOINT.pth OUT_FOLDER`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from conversion.architecture import Settings
from conversion.convert import Converted, convert, write
from conversion.errors import ConversionError
from impflow_zoo.models import layout
from impflow_zoo.models.fields import ModelError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command; mistakes end in one line and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        converted = convert(
            options.checkpoint,
            weights=options.weights,
            overrides=Settings.parse(options.set),
            converge=options.norms == "converged",
        )
        outcome = write(converted, options.folder, verify=options.verify, golden=options.golden)
    except (ConversionError, ModelError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or options.folder}: {error.strerror or error}")
    for line in [*_report(converted, options.folder), *(outcome.lines() if outcome else [])]:
        print(line)


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conversion",
        description="Turn a checkpoint of the public ImpFlow or Residual Flow training scripts "
        "into a model folder. The pickle in it is read, not run.",
    )
    parser.add_argument("checkpoint", type=Path, help="the file that the script saved")
    parser.add_argument("folder", type=Path, help="where to write the model")
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        help="averaged or raw weights (default: averaged ones where the file has them)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the training script that is to hold instead of the one in the file",
    )
    parser.add_argument(
        "--norms",
        choices=("stored", "converged"),
        default="stored",
        help="use power vectors as they were saved (the public code's values), or converge them "
        "(nets keep within their bound)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="round trip, finite densities and certificate on noise, written into the card",
    )
    parser.add_argument(
        "--golden",
        type=int,
        metavar="ROWS",
        help="rows of the golden batch (default: 8, none for large models, where it takes minutes)",
    )
    return parser


def _report(converted: Converted, folder: Path) -> list[str]:
    written = (folder / layout.WEIGHTS).stat().st_size
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
