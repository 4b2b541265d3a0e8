"""The command line, `impflow-zoo`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any

import typer

from impflow_zoo.cli.fit import fit, init
from impflow_zoo.cli.options import (
    AsJson,
    Dataset,
    Device,
    Model,
    Seed,
    Split,
    between_commas,
    seed_limit,
)
from impflow_zoo.demo.command import demo
from impflow_zoo.models import registry, writing
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import GOLDEN, RECIPE
from impflow_zoo.numerics import allocator

__all__ = ["app", "main"]

app = typer.Typer(
    name="impflow-zoo",
    help="Implicit and residual normalizing flows: fit, evaluate, sample, train, certify models.",
    epilog="IMPFLOW_ZOO_TRACEBACK=1 in the environment shows the traceback of an error, "
    "for bug reports.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"impflow-zoo {installed('impflow_zoo')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Say what stands before a command."""


app.command()(fit)
app.command()(init)


@app.command("list")
def list_(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Part of the names, or a pattern with *.")
    ] = "*",
    recipes: Annotated[bool, typer.Option("--recipes", help="Recipes without weights.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the models of the zoo."""
    from impflow_zoo.models.folder import ModelFolder
    from impflow_zoo.models.metrics import METRICS
    from impflow_zoo.zoo.record import Record

    names = registry.list_models(pattern, pretrained=not recipes)
    if not names:
        what, option = ("recipe without weights", " --recipes") if recipes else ("model", "")
        raise ModelError(f"no {what} matches {pattern!r}: `impflow-zoo list{option}` shows all")
    rows, models = [("model", "class", "parameters", "score", "unit", "better")], []
    for name in names:
        record = Record(ModelFolder(registry.zoo_folder() / name))
        kind, entry, metric = record.stated.model, record.entry, record.stated.config.metric
        shown = METRICS[metric]
        score = f"{entry.value:.4f}" if entry else "none yet"
        size = f"{record.parameters:,}" if record.parameters else ""
        rows.append((name, kind, size, score, shown.unit, shown.better))
        known = {"name": name, "model": kind, "parameters": record.parameters, "metric": metric}
        scale = {"unit": shown.unit, "direction": shown.direction}
        models.append(
            {**known, **scale, "value": entry and entry.value, "pretrained": record.trained}
        )
    _say(_columns(rows, right=(2, 3)), {"models": models}, as_json=as_json)


@app.command()
def evaluate(
    model: Model,
    dataset: Dataset = None,
    split: Split = None,
    seed: Seed = 0,
    limit: Annotated[
        int | None, typer.Option(metavar="ROWS", min=1, help="Use only the first rows.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="ROWS", min=1, help="Rows per batch.")
    ] = None,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Skip images that cannot be decoded.")
    ] = False,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Evaluate images while they are downloaded.")
    ] = False,
    predictions: Annotated[
        bool,
        typer.Option(
            "--predictions/--no-predictions",
            help="For conditional models, draw samples and report errors and coverage.",
        ),
    ] = True,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Column of weights of the rows; default: as in the model's recipe."
        ),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV file of the score of each row.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PNG file of density and data.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Columns in the picture; default: at most six."),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on held-out data."""
    from impflow_zoo import evaluation
    from impflow_zoo.data.spreadsheets import as_csv
    from impflow_zoo.evaluation.processes import together
    from impflow_zoo.evaluation.rows import column_of_weights
    from impflow_zoo.plots import pictures

    picture = picture and pictures.output_file(picture, (".png",))
    scores = scores and pictures.output_file(scores, (".csv",))
    if scores and skip_corrupt:
        raise ModelError("--scores counts the rows: leave --skip-corrupt out")
    paired = between_commas(columns or "")
    if paired and picture is None:
        raise ModelError("--columns are those of a picture: add --picture FILE")
    processes = together(device)
    loaded = registry.create_model(model, device=processes.device)
    if scores and column_of_weights(loaded, weights):
        raise ModelError(
            "--scores counts the rows, and those of weight 0 are left out: add --weights '', which "
            "changes no score of a row"
        )
    if picture is not None:
        pictures.check_library(loaded)
        pictures.check_columns(loaded, paired)
    result = evaluation.evaluate(
        loaded,
        dataset,
        split,
        seed=seed,
        limit=limit,
        batch_size=batch_size,
        skip_corrupt=skip_corrupt,
        streaming=streaming,
        predictions=predictions,
        weights=weights,
        processes=processes,
        progress=True,
    )
    if not processes.first:
        return
    if picture is not None:
        rows = evaluation.shown_rows(loaded, result, streaming=streaming)
        pictures.draw_density(loaded, rows, picture, seed, paired)
    if scores is not None:
        writing.write_whole(scores.resolve(), as_csv(result.table.reset_index()))
    written = {"scores": scores, "picture": picture}
    lines = "".join(f"\n{name:20} {path}" for name, path in written.items() if path)
    _say(result.report(model) + lines, {"model": model, **result.to_dict()}, as_json=as_json)


@app.command()
def sample(
    model: Model,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="PNG file (images, 2-D) or CSV file (tables).")
    ],
    n: Annotated[
        int,
        typer.Option(
            "-n",
            metavar="SAMPLES",
            min=1,
            help="Number of samples, for each context if there are contexts.",
        ),
    ] = 16,
    given: Annotated[
        str | None,
        typer.Option(metavar="NAME=VALUE,...|FILE", help="A context, or a file of contexts."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="SCALE", min=0.0, help="Scale of the noise.")
    ] = 1.0,
    rounded: Annotated[
        bool,
        typer.Option("--rounded/--not-rounded", help="Round columns that the data have rounded."),
    ] = True,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Draw samples from a model."""
    import torch

    from impflow_zoo.cli.given import read_given
    from impflow_zoo.data.spreadsheets import as_csv
    from impflow_zoo.evaluation.processes import together
    from impflow_zoo.plots import pictures

    out = pictures.output_file(out, (".png", ".csv"))
    loaded = registry.create_model(model, device=together(device).device)
    context = read_given(given, loaded.config)
    shape, picture = loaded.config.shape, out.suffix.lower() == ".png"
    if not picture and len(shape) == 3:
        raise ModelError(f"{model} is an image model: write its samples to a .png file")
    if picture and len(shape) == 1 and shape != (2,):
        raise ModelError(f"samples of {model} have {shape[0]} columns: write them to a .csv file")
    generator = torch.Generator().manual_seed(seed)
    contexts = None if context is None else context.to(next(loaded.parameters()).device)
    samples = loaded.sample(
        n, contexts, temperature, generator, rounded=rounded and not picture, as_frame=not picture
    )
    if picture:
        samples = samples if context is None else samples.flatten(0, 1)
        pictures.draw_samples(samples, out)
    else:
        writing.write_whole(out.resolve(), as_csv(samples.convert_dtypes() if rounded else samples))
    data = {"model": model, "n": n, "out": str(out)}
    _say(f"{len(samples)} samples of {model} in {out}", data, as_json=as_json)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name in the zoo, recipe.yaml, or its folder.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Hub id, folder, file or toy:NAME; default: as in RECIPE."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the run; default: runs/NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint.")] = False,
    init_from: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model with the initial weights.")
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES", min=0.0, help="Write a checkpoint and stop after this time."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            min=0,
            callback=seed_limit,
            help="Seed instead of the recipe's; with --resume, give it again.",
        ),
    ] = None,
    accept_outliers: Annotated[
        bool,
        typer.Option("--accept-outliers", help="Train on values like 1e30 among hundreds."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Take two steps to test the set-up; keep nothing.")
    ] = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Train the model of a recipe. Ctrl-C stops, --resume continues.

    With `accelerate launch -m impflow_zoo train ...` several processes share each batch.
    """
    from impflow_zoo import training
    from impflow_zoo.evaluation.processes import together
    from impflow_zoo.training.recipe import read_recipe
    from impflow_zoo.training.summary import closing

    path = registry.recipe_path(recipe)
    asked = read_recipe(path)
    state = training.train(
        path,
        data=data,
        out=out,
        resume=resume,
        init_from=init_from,
        seed=seed,
        max_minutes=max_minutes,
        device=device,
        accept_outliers=accept_outliers,
        dry_run=dry_run,
    )
    if not together(device).first:
        return
    if state["best"] is None and state["waited"]:
        raise ModelError(
            f"none of {state['waited']} validations succeeded, so no model was written: see the "
            "warnings above; a lower learning_rate or a higher solver.max_steps may help"
        )
    folder = out or Path("runs") / path.resolve().parent.name
    value, text = closing(asked, state, folder, dry_run=dry_run)
    _say(text, {**state, "metric": asked.config.metric, "validation": value}, as_json=as_json)


@app.command()
def certify(model: Model, as_json: AsJson = False) -> None:
    """Prove that blocks are invertible; check stored outputs."""
    from impflow_zoo.lipschitz.certify import worst
    from impflow_zoo.lipschitz.lipsdp import lipsdp_bounds
    from impflow_zoo.lipschitz.names import in_words
    from impflow_zoo.models.store import check_certificate, verify

    loaded = registry.create_model(model)
    folder = loaded.folder
    assert folder is not None, "a model that was loaded has a folder"
    stated, golden = folder.config(), folder.has(GOLDEN)
    certificates = (
        verify(loaded, folder, stated)
        if golden
        else check_certificate(loaded, folder.name, stated.certificate)
    )
    whole, lipsdp = worst(certificates), lipsdp_bounds(loaded)
    nets, lines = [], []
    for c, name in zip(certificates, in_words([c.name for c in certificates]), strict=True):
        smaller = lipsdp.get(c.name)
        nets.append({"name": c.name, "bound": c.bound, "margin": c.margin, "lipsdp": smaller})
        lines.append(
            f"{replace(c, name=name)}"
            + ("" if smaller is None else f"; LipSDP: Lip <= {smaller:.6f}")
        )
    proven = "not certified" if whole.margin is None else f"margin {whole.margin:.6f}"
    if not certificates:
        proven = "no nets to bound, its layers are invertible by construction"
    batch = "golden batch reproduced" if golden else "no golden batch to reproduce"
    bounds = {"bound": whole.bound, "margin": whole.margin, "nets": nets}
    text = "\n".join([*lines, f"{model}: {proven}; {batch}"])
    _say(text, {"model": model, "golden": golden, **bounds}, as_json=as_json)


@app.command()
def stage(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the model, with its recipe.yaml.")
    ],
    run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the run with the weights.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Test data; default: as on the card.")
    ] = None,
    repeat: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="Folder of a run with another seed. Repeat for several."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Update a model's folder: weights, scores, pictures, card."""
    from impflow_zoo.training.recipe import read_recipe
    from impflow_zoo.zoo import staging

    result = staging.stage(run, folder, data=data, repeats=repeat or ())
    name = folder.absolute().name
    text = result.report(name)
    if not read_recipe(folder / RECIPE).card.license:
        text += (
            "\nThe card names no licence of the weights: to name one, write `license: mit`, for "
            "example, under `card` in the recipe, and stage again."
        )
    _say(text, {"model": name, **result.to_dict()}, as_json=as_json)


@app.command()
def publish(
    namespace: Annotated[
        str, typer.Option(metavar="NAME", help="User or organisation on the Hub.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Names or folders; default: the whole zoo."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="New repositories are private.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, but send nothing.")] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open pull requests, for review.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check models' folders and upload each in one commit."""
    from impflow_zoo.models.hub import check_repository
    from impflow_zoo.zoo import sending

    check_repository(f"{namespace}/name")  # before folders are looked through
    found = sending.parcels(models or ())
    if not as_json:
        print(sending.table(found, namespace), flush=True)
    sending.check(found, namespace)
    sent, options = [], {"private": private, "create_pr": create_pr}
    for one in () if dry_run else sending.publish(found, namespace, **options):
        sent.append(one)
        if not as_json:
            print(one, flush=True)
    listed = [
        {"name": p.name, "files": p.files, "bytes": p.size, "trained": bool(p.files)} for p in found
    ]
    data = {"namespace": namespace, "models": listed, "sent": [vars(s) for s in sent]}
    text = "dry run: nothing was sent"
    if not dry_run:
        text = f"{sum(one.changed for one in sent)} of {len(found)} models sent"
    _say(text, data, as_json=as_json)


app.command()(demo)


def _columns(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Rows of text side by side; the columns `right` end in one line, the others begin in one."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _say(text: str, data: dict[str, Any], *, as_json: bool) -> None:
    print(json.dumps(data) if as_json else text)


def main() -> None:
    """Run the command line: mistakes end in one line on stderr and exit code 2."""
    from impflow_zoo.models.mistakes import in_one_line

    allocator.keep_memory()
    with in_one_line():
        app(prog_name="impflow-zoo")
