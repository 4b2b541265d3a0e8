"""Small searches that take a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas

from impflow_zoo.data import open_toy
from impflow_zoo.fitting import Fit, describe
from impflow_zoo.fitting.budget import Plan
from impflow_zoo.fitting.portfolio import Candidate
from impflow_zoo.fitting.reading import read_table
from impflow_zoo.fitting.run import fit_splits
from impflow_zoo.fitting.splits import split

__all__ = ["ENTRANTS", "small_fit"]

_SMALL = {"kind": "tabular", "blocks": 1, "hidden_features": [8]}
_DECAY = {"weight_decay": 0.1}
ENTRANTS = (
    Candidate("implicit", "ImpFlow", _SMALL, _DECAY, "implicit"),
    Candidate("residual", "ResFlow", _SMALL, _DECAY, "implicit"),
    Candidate(
        "spline",
        "SplineFlow",
        {"kind": "spline", "blocks": 1, "hidden_features": 8},
        _DECAY,
        "implicit",
    ),
)


def small_fit(out: Path | None, **options: Any) -> Fit:
    """Two rounds over small models of 600 moons and a choice of their decay, a second of work."""
    moons = open_toy("moons", 600).rows(range(600)).numpy()
    data = options.pop("data", pandas.DataFrame(moons, columns=["x", "y"]))
    table = read_table(data, options.get("weights"))
    findings = describe(table.first, options.pop("given", ()))
    settings = {"minutes": 0.015, "seed": 0, "device": "cpu", **options}
    splits = split(table, findings, settings["seed"])
    rounds = settings.pop("rounds", Plan((3, 2), 0.1, decay=0.1))
    return fit_splits(findings, splits, ENTRANTS, rounds, out=out, **settings)
