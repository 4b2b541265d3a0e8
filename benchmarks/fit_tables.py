"""`fit` beside the guide's recipe and spline flows, on tables nobody tuned on.

    OMP_NUM_THREADS=1 python benchmarks/fit_tables.py --minutes 5 --publish

The tables are simulated, 30,000 rows each, by NumPy and scikit-learn. All sides have the same rows.
`fit` spends the minutes on its search and on the best model; the recipe of the guide on your own
data (an implicit flow, Muon, weight decay 1) and each spline flow of the portfolio on one training,
counted as `fit` counts them. Of the two spline flows the one with the better validation value is
shown, so splines have twice the work. zuko's `NSF` (five transforms, two layers of 128) is trained
for as many CPU seconds as `fit` took: standardised columns, AdamW at 1e-3 with a warm-up and a
cosine to zero, batches of 256, averaged weights, the best of 20 validations. Leads are paired, row
by row, on the same test rows. Figures of tables that are not named are kept. A run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pandas
import torch
from documents import README, RESULTS, markdown, publish
from zuko_spline import zuko_spline

from impflow_zoo import evaluate
from impflow_zoo.fitting import Fit, describe
from impflow_zoo.fitting.budget import Plan, plan, prices
from impflow_zoo.fitting.portfolio import PORTFOLIO, Candidate, candidates
from impflow_zoo.fitting.reading import read_table
from impflow_zoo.fitting.run import fit_splits
from impflow_zoo.fitting.splits import split

KEPT = RESULTS / "fit-tables.json"
ROWS = 30_000
GUIDE = PORTFOLIO[0]  # the recipe of docs/your-own-data.md
SPLINES = [one for one in PORTFOLIO if one.model == "SplineFlow"]


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


TABLES: dict[str, Callable[[numpy.random.Generator], pandas.DataFrame]] = {
    "robot arm, 7 columns": arm,
    "bent clusters, 5 columns": clusters,
    "t copula, 8 columns": copula,
    "Friedman, 11 columns": friedman,
    "hidden factors, 24 columns": factors,
}


def compared(name: str, minutes: float, folder: Path) -> dict[str, Any]:
    """Test values of all sides on a table, and the leads of `fit`."""
    table = read_table(TABLES[name](numpy.random.default_rng(0)))
    findings = describe(table.first)
    splits = split(table, findings, 0)

    def fitted(label: str, entrants: list[Candidate], rounds: Plan) -> tuple[Fit, torch.Tensor]:
        found = fit_splits(
            findings,
            splits,
            entrants,
            rounds,
            minutes=minutes,
            out=folder / f"{name.split(',')[0]}-{label}".replace(" ", "-"),
            seed=0,
            device="cpu",
            wall=math.inf,
            resume=(folder / f"{name.split(',')[0]}-{label}".replace(" ", "-")).exists(),
        )
        per_row = evaluate(found.model, splits["test"]).per_row
        assert per_row is not None
        return found, per_row

    entrants = candidates(findings)
    own, rows = fitted("fit", entrants, plan(prices(entrants, findings, splits), 60 * minutes))
    guide = fitted("guide", [GUIDE], Plan())
    splines = [fitted(one.name, [one], Plan()) for one in SPLINES]
    spline = max(splines, key=lambda side: side[0].best.rank)
    found: dict[str, Any] = {"chosen": own.best.name, "fit": [own.value, own.stderr]}
    minutes_of = {
        label: sum(one.cpu_minutes for one in side.tried)
        for label, side in {"fit": own, "guide": guide[0], "spline": spline[0]}.items()
    }
    minutes_of["zuko"] = minutes_of["fit"]
    peers = {
        "guide": (guide[0].best.name, guide[1]),
        "spline": (spline[0].best.name, spline[1]),
        "zuko": ("NSF", zuko_spline(splits, 60 * minutes_of["zuko"])),
    }
    for label, (peer, theirs) in peers.items():
        lead = rows - theirs
        found[label] = {
            "name": peer,
            "value": float(theirs.mean()),
            "lead": float(lead.mean()),
            "error": float(lead.std() / len(lead) ** 0.5),
        }
    found |= {"baselines": own.test_baselines, "cpu": minutes_of}
    print(name, json.dumps(found), flush=True)
    return found


def rows_of(figures: dict[str, Any]) -> str:
    """The table of the document."""
    rows = []
    for name, found in figures.items():
        guide, spline, peer = found["guide"], found["spline"], found["zuko"]
        mixture = max(found["baselines"].values())
        rows.append(
            (
                name,
                f"{found['fit'][0]:.3f} ± {found['fit'][1]:.3f}",
                found["chosen"],
                f"{guide['value']:.3f}",
                f"{guide['lead']:+.3f} ± {guide['error']:.3f}",
                f"{spline['value']:.3f} ({spline['name'].removeprefix('spline-')})",
                f"{spline['lead']:+.3f} ± {spline['error']:.3f}",
                f"{peer['value']:.3f}",
                f"{peer['lead']:+.3f} ± {peer['error']:.3f}",
                f"{mixture:.3f}",
            )
        )
    header = (
        "test, nats | `fit` | it chose | guide's recipe | `fit` ahead | best spline flow | "
        "`fit` ahead | zuko's NSF | `fit` ahead | best Gaussian mixture"
    )
    return markdown(header, rows)


def main() -> None:
    """Compare on all tables, or on those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--tables", nargs="*", default=list(TABLES))
    parser.add_argument("--out", type=Path, default=Path("runs/fit-tables"))
    parser.add_argument("--publish", action="store_true", help="write the table into README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    for name in options.tables:
        figures[name] = compared(name, options.minutes, options.out)
        KEPT.write_text(json.dumps(figures, indent=1) + "\n")
        if options.publish:
            publish(README, {"fit table": rows_of(figures)}, figures, KEPT.stem)


if __name__ == "__main__":
    main()
