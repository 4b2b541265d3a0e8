"""The commands `impflow-zoo fit` and `impflow-zoo init`."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Annotated

import typer

from impflow_zoo.cli.options import (
    AsJson,
    Device,
    between_commas,
    by_name,
    number,
    seed_limit,
)
from impflow_zoo.models.fields import ModelError

__all__ = ["fit", "init"]

Data = Annotated[str, typer.Argument(metavar="DATA", help="File, folder, Hub id, or toy:NAME.")]
Given = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="Context columns: model the others given these."),
]
Chosen = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...", help="Columns to model; default: all others that have a density."
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Column of weights of the rows; it is no part of the density."
    ),
]
Minutes = Annotated[
    float,
    typer.Option(
        metavar="MINUTES",
        min=1e-3,
        help="CPU minutes of one thread; a busy machine takes up to four times as long.",
    ),
]


def fit(
    data: Data,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for the model, all runs and the rows.")
    ],
    minutes: Minutes = 10.0,
    columns: Chosen = None,
    given: Given = None,
    bounds: Annotated[
        str | None,
        typer.Option(metavar="NAME=LOW:HIGH,...", help="Ends of columns; empty where open."),
    ] = None,
    periodic: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=PERIOD,...",
            help="Periods of columns that are angles, or LOW:HIGH, the ends of a turn.",
        ),
    ] = None,
    weights: Weights = None,
    ensemble: Annotated[
        int,
        typer.Option(
            metavar="SEEDS",
            min=1,
            max=100,
            help="Train the best with this many seeds, and mix them.",
        ),
    ] = 1,
    seed: Annotated[
        int,
        typer.Option(
            metavar="SEED", min=0, callback=seed_limit, help="Seed of the split and of all runs."
        ),
    ] = 0,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the fit in FOLDER.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the best density of a table in a given time. Ctrl-C stops, --resume continues."""
    from impflow_zoo import fitting
    from impflow_zoo.models.filenames import CONFIG

    try:
        found = fitting.fit(
            data,
            minutes,
            between_commas(given or ""),
            columns=None if columns is None else between_commas(columns),
            out=out,
            bounds=_bounds(bounds or ""),
            periodic=_periods(periodic or ""),
            weights=weights,
            ensemble=ensemble,
            seed=seed,
            device=device,
            resume=resume,
        )
    except KeyboardInterrupt:  # in a run, or while the model is tested and drawn
        best = "holds the best model so far" if (out / CONFIG).exists() else "holds no model yet"
        text = f"stopped: {out} {best}; go on with --resume"
        print(json.dumps({"stopped": True, "folder": str(out)}) if as_json else text)
        return
    data_of_all = {
        "metric": "log_likelihood",
        "value": _finite(found.value),
        "stderr": _finite(found.stderr),
        "estimator_stderr": 0.0,
        "n": found.n,
        "stopped": False,
        "folder": str(out),
        "model": found.best.name,
        "columns": list(found.columns.columns),
        "given": list(found.columns.given),
        "left_out": dict(found.columns.left_out),
        "rounding": dict(found.columns.rounding),
        "margin": found.margin,
        "baselines": found.test_baselines,
        "leads": {name: [*map(_finite, lead)] for name, lead in found.leads.items()},
        "tried": [vars(one) for one in found.tried],
    }
    print(json.dumps(data_of_all) if as_json else found.report())


def init(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")] = Path("recipe.yaml"),
    columns: Chosen = None,
    given: Given = None,
    weights: Weights = None,
    minutes: Annotated[
        float,
        typer.Option(
            metavar="MINUTES",
            min=1e-3,
            help="CPU minutes that the training of the recipe takes on one thread.",
        ),
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Write a recipe for a table. Its comments say what was found in the columns."""
    from impflow_zoo.fitting.initial import first_recipe
    from impflow_zoo.models.writing import write_whole

    if out.exists():
        raise ModelError(f"{out} exists: choose another --out")
    if not out.parent.is_dir():
        raise ModelError(f"{out}: the folder {out.parent} does not exist")
    chosen = None if columns is None else between_commas(columns)
    findings, text = first_recipe(data, between_commas(given or ""), minutes, weights, chosen)
    write_whole(out, text.encode())
    lines = [*findings.lines(), f"recipe: {out}"]
    run = Path("runs", Path(data).stem)
    train = ["impflow-zoo", "train", str(out), "--data", data, "--out", str(run)]
    if findings.dropped:
        lines.append("first: drop the rows with missing values, as train refuses them")
    lines.append(f"next: {shlex.join(train)}")
    known = {"recipe": str(out), "columns": findings.columns, "left_out": dict(findings.left_out)}
    print(json.dumps(known) if as_json else "\n".join(lines))


def _bounds(text: str) -> dict[str, tuple[float | None, float | None]]:
    """The ends of columns from `NAME=LOW:HIGH,...`."""
    found = {}
    for name, value in by_name("--bounds", text).items():
        low, colon, high = value.partition(":")
        if not colon:
            raise ModelError(f"--bounds: {name}={value}: LOW:HIGH is needed, such as 0:1 or 0:")
        found[name] = (_end(name, low), _end(name, high))
    return found


def _end(name: str, text: str) -> float | None:
    return number("--bounds", name, text) if text.strip() else None


def _periods(text: str) -> dict[str, float | tuple[float, ...]]:
    """The periods of columns, or the ends of their turns, from `NAME=PERIOD,NAME=LOW:HIGH,...`."""
    found: dict[str, float | tuple[float, ...]] = {}
    for name, value in by_name("--periodic", text).items():
        ends = tuple(number("--periodic", name, end) for end in value.split(":"))
        found[name] = ends[0] if len(ends) == 1 else ends
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
