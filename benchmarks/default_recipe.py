"""Which recipe is a good default for a table: variants at equal CPU time.

    OMP_NUM_THREADS=1 python benchmarks/default_recipe.py --data FOLDER --minutes 2 --seeds 0 1 2
    python benchmarks/default_recipe.py --table

Six tables: three of UCI as the zoo has them (FOLDER holds `protein`, `power-plant` and `kin8nm`,
each with its splits) and three simulated ones, a robot arm, a t copula and Friedman's
function (`fit_tables.py`). Each recipe gets the same CPU seconds of one thread, by
`time.process_time`, so that other processes hardly matter: a step and a validation are timed first,
and the schedule has as many steps as fit. Values are those of the best weights on 2,000 validation
rows, in nats. Test rows are not looked at.

Every finished training is a row of `results/default-recipe.csv` (`--kept`), and is not made again:
the command goes on where it was stopped. `--budget` ends it after so many CPU minutes.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pandas
import torch
from documents import README, RESULTS, between, markdown
from fit_tables import arm, copula, friedman

from impflow_zoo.data import TableSource
from impflow_zoo.fitting import describe
from impflow_zoo.fitting.columns import Findings
from impflow_zoo.fitting.portfolio import Candidate, training_settings
from impflow_zoo.fitting.reading import Table, read_table
from impflow_zoo.fitting.splits import split
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.config import parse
from impflow_zoo.models.fields import convert
from impflow_zoo.training import Trainer
from impflow_zoo.training.recipe import TrainingSettings

KEPT = RESULTS / "default-recipe.csv"
UCI = ("protein", "power-plant", "kin8nm")
SIMULATED = {"robot arm": arm, "t copula": copula, "Friedman": friedman}
FIELDS = ("table", "recipe", "seed", "minutes", "seconds", "steps", "best_step", "validation")
MINUTES = 2.0  # of the table that is shown
TIMED, VALIDATIONS = 6, 10  # steps, and validations of a training

_WHITE: dict[str, Any] = {"kind": "tabular", "whiten": True, "net": "sandwich"}
_MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 1e-2, "ema_decay": 0.995}
RECIPES = {
    "AdamW": Candidate(
        "adamw",
        "ImpFlow",
        _WHITE,
        {"optimizer": "adamw", "learning_rate": 5e-3, "batch_size": 500, "ema_decay": 0.999},
        "implicit-sandwich",
    ),
    "AdamW, decay 0.5": Candidate(
        "adamw-0.5",
        "ImpFlow",
        _WHITE,
        {"optimizer": "adamw", "learning_rate": 5e-3, "weight_decay": 0.5, "ema_decay": 0.995},
        "implicit-sandwich",
    ),
    "Muon, decay 0.5": Candidate(
        "muon-0.5", "ImpFlow", _WHITE, {**_MUON, "weight_decay": 0.5}, "implicit-sandwich"
    ),
    "Muon, decay 2": Candidate(
        "muon-2", "ImpFlow", _WHITE, {**_MUON, "weight_decay": 2.0}, "implicit-sandwich"
    ),
    "Muon, sines": Candidate(
        "muon-sines",
        "ImpFlow",
        {**_WHITE, "net": "spectral", "frequency": 1.0},
        {**_MUON, "weight_decay": 1.0},
        "implicit",
    ),
    "Muon, width 64": Candidate(
        "muon-64",
        "ImpFlow",
        {**_WHITE, "hidden_features": [64, 64]},
        {**_MUON, "weight_decay": 0.5},
        "implicit-sandwich",
    ),
    "Muon, radial": Candidate(
        "muon-radial",
        "ImpFlow",
        {**_WHITE, "radial": True},
        {**_MUON, "weight_decay": 0.5},
        "implicit-sandwich",
    ),
    "Muon, not whitened": Candidate(
        "muon-plain",
        "ImpFlow",
        {**_WHITE, "whiten": False},
        {**_MUON, "weight_decay": 0.5},
        "implicit-sandwich",
    ),
}


def tables(folder: Path | None) -> Iterator[tuple[str, Table]]:
    """The tables by name; those of UCI only where their folder is given."""
    for name in UCI if folder else ():
        yield name, read_table(folder / name)
    for name, simulated in SIMULATED.items():
        yield name, read_table(simulated(numpy.random.default_rng(0)))


def rows_of(table: Table) -> tuple[Findings, dict[str, TableSource]]:
    """Columns, and rows to train and to validate on; rows for a test are held out, unseen."""
    findings = describe(table.first)
    return findings, split(table, findings, 0)


def trained(
    candidate: Candidate, findings: Findings, splits: dict[str, TableSource], seed: int, work: float
) -> dict[str, Any]:
    """A training of some CPU seconds."""
    rows = splits["train"]
    given = training_settings(
        candidate, 1000, len(rows), seed=seed, validations=VALIDATIONS, patience=None
    )
    settings: TrainingSettings = convert(given, TrainingSettings, "training")

    def trainer(steps: int, folder: str) -> Trainer:
        torch.manual_seed(seed)
        model = model_class(candidate.model)(parse(candidate.full_config(findings)))
        own = replace(
            settings,
            steps=steps,
            warmup_steps=min(100, math.ceil(steps / 10)),
            validate_every=math.ceil(steps / VALIDATIONS),
        )
        made = Trainer(model, own, rows, splits["validation"], Path(folder), progress=False)
        made.prepare()
        return made

    with tempfile.TemporaryDirectory() as folder:
        made = trainer(1000, folder)
        made.step()
        start = time.process_time()
        for _ in range(TIMED):
            made.step()
            made.state["step"] += 1
        step = (time.process_time() - start) / TIMED
        start = time.process_time()
        made.validate()
        left = work - VALIDATIONS * (time.process_time() - start)
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(max(VALIDATIONS, int(left / step)), folder)
        start = time.process_time()
        state = made.run()
        seconds = time.process_time() - start
        if made.stopped:
            raise SystemExit("stopped by a signal: the training is not kept")
    return {
        "seconds": round(seconds, 1),
        "steps": state["step"],
        "best_step": state["best_step"],
        "validation": math.nan if state["best"] is None else round(state["best"], 5),
    }


def known(kept: Path, minutes: float) -> list[dict[str, str]]:
    """The trainings of this length that have been made."""
    if not kept.is_file():
        return []
    with kept.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if float(row["minutes"]) == minutes]


def keep(row: dict[str, Any], kept: Path) -> None:
    """Add a training to the file."""
    new = not kept.is_file()
    with kept.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def table_of(rows: list[dict[str, str]]) -> str:
    """Gains over the first recipe with the same seed: means, and the spread over seeds."""
    frame = pandas.DataFrame(rows).astype({"validation": float})
    lines = []
    first, *others = (name for name in RECIPES if name in {*frame["recipe"]})
    for name, part in frame.groupby("table", sort=False):
        values = part.pivot_table("validation", "seed", "recipe").reindex(columns=[first, *others])
        gains = values[others].sub(values[first], axis=0)
        cells = [str(name), f"{values[first].mean():.3f}"]
        for mean, spread in zip(gains.mean(), gains.std(), strict=True):
            text = "" if math.isnan(mean) else f"{mean:+.3f}"
            cells.append(text if math.isnan(spread) else f"{text} ± {spread:.3f}")
        lines.append(tuple(cells))
    return markdown(" | ".join(["validation, nats", first, *others]), lines)


def main() -> None:
    """Train what has not been trained yet, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the tables of UCI")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="CPU minutes of a training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--budget", type=float, default=math.inf, help="CPU minutes of all")
    parser.add_argument("--kept", type=Path, default=KEPT, help="CSV file of the trainings")
    parser.add_argument("--table", action="store_true", help="print the table and end")
    parser.add_argument("--publish", action="store_true", help="write the table into README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        train_all(options)
    text = table_of(known(options.kept, options.minutes))
    print(text)
    if options.publish:
        page = README.read_text(encoding="utf-8")
        README.write_text(between(page, "default recipe", text), encoding="utf-8")


def train_all(options: argparse.Namespace) -> None:
    """Train each recipe on each table with each seed, one seed after the other."""
    rows = known(options.kept, options.minutes)
    done = {(row["table"], row["recipe"], row["seed"]) for row in rows}
    found = {name: rows_of(table) for name, table in tables(options.data)}
    work = 60 * options.minutes
    took = statistics.median([float(row["seconds"]) for row in rows] or [work])
    for seed in options.seeds:
        for name, (findings, splits) in found.items():
            for recipe in options.recipes:
                if (name, recipe, str(seed)) in done:
                    continue
                if time.process_time() + took > 60 * options.budget:
                    return
                row = trained(RECIPES[recipe], findings, splits, seed, work)
                place = {"table": name, "recipe": recipe, "seed": seed, "minutes": options.minutes}
                keep({**place, **row}, options.kept)
                print(name, recipe, seed, row, flush=True)


if __name__ == "__main__":
    main()
