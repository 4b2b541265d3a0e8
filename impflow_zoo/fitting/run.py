"""From a table to the best density in a given time."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from impflow_zoo.data import TableSource
from impflow_zoo.data.frames import IN_MEMORY
from impflow_zoo.data.names import in_quotes
from impflow_zoo.data.source import checksum
from impflow_zoo.evaluation import evaluate
from impflow_zoo.evaluation.processes import together
from impflow_zoo.evaluation.standard_errors import standard_error, weighted_mean
from impflow_zoo.fitting.budget import Plan, plan, prices
from impflow_zoo.fitting.card import card_words, write_card
from impflow_zoo.fitting.columns import Findings, describe
from impflow_zoo.fitting.comparing import baselines_of, scores_of
from impflow_zoo.fitting.portfolio import Candidate, candidates
from impflow_zoo.fitting.reading import read_table
from impflow_zoo.fitting.result import Fit
from impflow_zoo.fitting.search import STATE, WALL, Search, StoppedFitError, read_state
from impflow_zoo.fitting.splits import split, write_splits
from impflow_zoo.fitting.stated import as_options
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CURVE, FITTED, PICTURE, PUBLISHED, TEST_ROWS
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import MOST_MEMBERS
from impflow_zoo.models.writing import write_whole
from impflow_zoo.numerics.settings import is_real, is_whole
from impflow_zoo.training.facts import TrainingFacts
from impflow_zoo.training.folders import only_run

__all__ = ["StoppedFitError", "checked", "fit", "fit_splits"]

_SHOWN = 2000  # rows in the picture


def fit(
    data: Any,
    minutes: float = 10.0,
    given: str | Sequence[str] = (),
    *,
    columns: str | Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    bounds: Mapping[str, Sequence[float | None]] | None = None,
    periodic: Mapping[str, float | Sequence[float]] | None = None,
    weights: str | None = None,
    ensemble: int = 1,
    seed: int = 0,
    device: str | torch.device | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Fit:
    """Find the best density of a table in a given time.

    Chooses columns, holds out a tenth of the rows for validation and a tenth for a test, tries
    several models for a short time each, and trains the best of them. The choice is by validation
    rows. Time is counted as work, by what steps cost, so that the same table, minutes and seed give
    the same model on a busy machine, too. Fits at the same time belong into processes: threads
    share torch's random numbers, so their models depend on each other.

    Arguments:
        data: a file or folder, a Hub id, `toy:NAME`, a DataFrame, or an array with shape `(N, D)`.
        minutes: CPU minutes of one thread of the machine that the costs were measured on. The
            last run is stopped after three times its share by the clock, and a minute more.
        given: context columns: the density is that of the other columns given these.
        columns: columns to model; None takes all others that have a density.
        out: folder for the best model, all runs and the rows; None takes a temporary folder, which
            is deleted when the result is.
        bounds: lowest and highest value of columns that have ends, `(low, high)` by name, None or
            infinity for an open end: the density is zero outside. None has no bounds, but proposes
            some.
        periodic: periods of columns that are angles, by name, or pairs, the ends of a turn: samples
            lie between these. A single period begins at 0, or at minus half of it if the values
            do. None has none, but proposes some.
        weights: column that holds the weights of the rows, at least 0: a row of weight 2 counts as
            two rows. None counts all alike.
        ensemble: trainings of the best with seeds that follow each other, which share the time; the
            model is their mixture.
        seed: of the split and of all runs.
        device: of the trainings; None takes a GPU if there is one.
        resume: go on with the fit in `out`.
        progress: show findings, runs and a progress bar on stderr.

    Returns:
        The best model with its value on the test rows, and a table of what was tried.

    Raises:
        DataError: if the data cannot be read, or hold no column or too few rows to model.
        ModelError: for an argument out of its range, an unknown column, a row outside of bounds, a
            folder that holds something else, or several processes.
        StoppedFitError: if a signal asks to stop; the folder holds the best model so far.

    Example:
        >>> found = fit("toy:moons", minutes=0.02, progress=False)
        >>> found.model.sample(3).shape
        torch.Size([3, 2])
    """
    minutes, seed = checked(minutes, seed)
    if not (is_whole(ensemble) and 1 <= ensemble <= MOST_MEMBERS):
        raise ModelError(f"ensemble={ensemble!r}: a number from 1 to {MOST_MEMBERS} is needed")
    table = read_table(data, weights)
    chosen = None if columns is None else _as_names(columns)
    findings = describe(table.first, _as_names(given), table.name, columns=chosen)
    findings = findings.with_stated(
        {} if bounds is None else bounds, {} if periodic is None else periodic
    )
    say = _said if progress else _unsaid
    for line in findings.lines():
        say(line)
    if weights is not None:
        say(f"weights of the rows: {weights}")
    splits = split(table, findings, seed)
    entrants = candidates(findings)
    return fit_splits(
        findings,
        splits,
        entrants,
        plan(prices(entrants, findings, splits), 60 * minutes, int(ensemble)),
        minutes=minutes,
        out=out,
        chosen=chosen,
        weights=weights,
        members=int(ensemble),
        data_name="" if table.name == IN_MEMORY else table.name,
        seed=seed,
        device=device,
        resume=resume,
        progress=progress,
    )


def _as_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names of columns; one alone may be a string."""
    return (names,) if isinstance(names, str) else tuple(names)


def checked(minutes: Any, seed: Any) -> tuple[float, int]:
    """Minutes and a seed as numbers of Python, or a `ModelError` that says what is wrong."""
    if not (is_real(minutes) and 0 < minutes < math.inf):
        raise ModelError(f"minutes={minutes!r}: a positive number is needed")
    if not (is_whole(seed) and 0 <= seed < 2**63):
        raise ModelError(f"seed={seed!r}: a whole number between 0 and 2^63 - 1 is needed")
    return float(minutes), int(seed)


def fit_splits(
    findings: Findings,
    splits: Mapping[str, TableSource],
    entrants: Sequence[Candidate],
    rounds: Plan,
    *,
    minutes: float,
    out: str | os.PathLike[str] | None,
    chosen: Sequence[str] | None = None,
    weights: str | None = None,
    members: int = 1,
    data_name: str = "",
    seed: int,
    device: str | torch.device | None,
    resume: bool = False,
    progress: bool = False,
    baselines: bool = True,
    wall: float = WALL,
) -> Fit:
    """Search among candidates on rows that are split; the arguments are those of `fit`.

    Arguments:
        findings: the columns.
        splits: the rows, with or without a test split.
        entrants: the candidates, the most promising first.
        rounds: of the search.
        chosen: the columns to model, if the user names them.
        weights: what the column is called that holds the weights of the rows, if they have any.
        members: last runs of the best, with seeds that follow each other; the model is their
            mixture.
        data_name: the data, as the card names them and its commands take them; empty for rows in
            memory.
        baselines: compare with densities that need no search.
        wall: minutes by the clock per minute of work after which the last run is stopped.
    """
    start = time.perf_counter()
    processes, say = together(device), _said if progress else _unsaid
    if processes.count > 1:
        raise ModelError(
            f"fit runs in one process, not in {processes.count}: start it without a launcher; "
            "several can share the training of a recipe"
        )
    kept = _Temporary() if out is None else None
    folder = kept.path if kept else Path(os.fspath(out or ""))
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file: --out takes a folder")
    asked = {
        "minutes": minutes,
        "seed": seed,
        "given": list(findings.given),
        "columns": None if chosen is None else list(chosen),
        "weights": weights,
        "ensemble": members,
        "stated": findings.stated or None,
        "data": [checksum(rows) for rows in splits.values()],  # last, as the others change it
    }
    with only_run(folder):
        _check(folder, asked, resume=resume)
        if resume and not (folder / STATE).is_file():
            say(f"nothing to resume in {folder.absolute()}: a new fit begins")
        _begin(folder, asked)
        write_splits(splits, folder / FITTED, weights)
        if "test" in splits:  # where `evaluate` finds them
            shutil.copyfile(folder / FITTED / "test.parquet", folder / TEST_ROWS)
        search = Search(
            findings=findings,
            splits={name: splits[name] for name in ("train", "validation")},
            folder=folder,
            asked=asked,
            work=60 * minutes,
            seed=seed,
            processes=processes,
            progress=progress,
            say=say,
            weights=weights,
            members=members,
            card=card_words(data_name),
        )
        try:
            best = search.run(entrants, rounds, wall)
        except StoppedFitError:
            if kept is None:
                raise
            raise StoppedFitError(
                "a signal has stopped the fit, and nothing of it is kept: a fit with out=FOLDER "
                "can go on, by resume=True"
            ) from None
        if best.value is None:
            remedy = "look for columns with extreme values"
            if any(one.ended == "time" for one in search.tried):
                remedy = "the clock stopped the run before its first validation, give more minutes"
            raise ModelError(f"no run has a validation value, so there is no model: {remedy}")
        model = FlowModel.from_pretrained(folder, device=processes.device)
        others = baselines_of(findings, splits, seed, say) if baselines else ()
        test = splits.get("test")
        scored, leads, means = None, {}, {}
        if test is not None:
            scored = evaluate(model, test)
            assert scored.per_row is not None, "evaluate returns the score of each row"
            groups, counts = scored.row_groups, scored.row_weights
            for name, own in scores_of(others, findings, test, seed + 2).items():
                means[name] = float(weighted_mean(own, counts))
                error = standard_error(scored.per_row.double() - own, groups, counts)
                leads[name] = (scored.value - means[name], float(error))
        found = Fit(
            model=model,
            value=scored.value if scored else math.nan,
            stderr=scored.stderr if scored else math.nan,
            n=scored.n if scored else 0,
            groups=scored.groups if scored else None,
            columns=findings,
            folder=folder,
            tried=tuple(search.tried),
            best=best,
            baselines=others,
            test_baselines=means,
            leads=leads,
            minutes=(time.perf_counter() - start) / 60,
            weights=weights,
            untried=tuple(one.name for one in entrants[(*rounds.sizes, 1)[0] :]),
            all_steps=search.all_steps,
            kept=kept,
        )
        if kept is None:
            _draw(found, splits)
            if scored is not None:
                data = data_name or str(folder / FITTED)  # rows in memory are kept there
                write_card(found, scored, again=_again(asked, data))
    return found


def _again(asked: Mapping[str, Any], data: str) -> str:
    """The command that makes a fit again."""
    options = {
        "columns": ",".join(map(in_quotes, asked["columns"] or ())),
        "given": ",".join(map(in_quotes, asked["given"])),
        **as_options(asked["stated"] or {}),
        "weights": asked["weights"],
        "ensemble": asked["ensemble"] if asked["ensemble"] > 1 else None,
        "seed": asked["seed"],
    }
    words = ["impflow-zoo", "fit", data, "--out", "runs/again", "--minutes"]
    words.append(f"{asked['minutes']:g}")
    for name, value in options.items():
        words += [f"--{name}", str(value)] if value else []
    return shlex.join(words)


class _Temporary:
    """A folder that is deleted when nobody refers to it any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="impflow-zoo-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _check(folder: Path, asked: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse a folder that holds something else.

    Raises:
        ModelError: saying what, and what to do.
    """
    path = folder / STATE
    if not path.is_file():
        for name in (*PUBLISHED, FITTED, "tried"):  # what a fit writes
            if (folder / name).exists():
                raise ModelError(f"{folder} holds a {name} of something else: choose another --out")
        return
    if not resume:
        raise ModelError(f"{folder} holds a fit already: --resume it, or choose another --out")
    known, _ = read_state(folder)
    for name, value in asked.items():
        if known.get(name) != value:
            began = f"{name} {known.get(name)}, not {value}"
            began = {"data": "other rows", "stated": "other bounds or periods"}.get(name, began)
            raise ModelError(
                f"{folder} was begun with {began}: give the same again to resume, or choose "
                "another --out"
            )


def _begin(folder: Path, asked: Mapping[str, Any]) -> None:
    """Note what is asked for, unless a search that goes on has."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / STATE).is_file():
        write_whole(folder / STATE, json.dumps({"asked": dict(asked), "tried": []}).encode())


def _draw(found: Fit, splits: Mapping[str, TableSource]) -> None:
    """Pictures of the density and of the validation values, if matplotlib is there."""
    from impflow_zoo.plots import pictures

    with suppress(ModelError):  # without matplotlib
        rows = splits.get("test", splits["validation"])
        shown = rows.rows(range(min(len(rows), _SHOWN)))
        pictures.draw_density(found.model, shown, found.folder / PICTURE)
        curve = TrainingFacts.read(found.folder).curve
        if curve:
            metric = found.model.config.metric
            pictures.draw_curves([("", metric, [curve])], [""], found.folder / CURVE)


def _said(line: str) -> None:
    tqdm.write(line, file=sys.stderr)  # past a bar


def _unsaid(line: str) -> None:
    """For those who do not want to hear of it."""
