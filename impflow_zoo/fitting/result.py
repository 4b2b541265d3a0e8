"""What a fit has found."""

from __future__ import annotations

import math
import shlex
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from impflow_zoo.evaluation.baselines import Baseline
from impflow_zoo.evaluation.standard_errors import clustered
from impflow_zoo.fitting.columns import Findings
from impflow_zoo.fitting.search import Tried
from impflow_zoo.lipschitz.certify import worst
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.training.summary import course

if TYPE_CHECKING:
    import pandas

__all__ = ["Fit", "tried_lines"]

_ENDS = {
    "steps": "all steps done",
    "time": "stopped by the clock",
    "signal": "interrupted",
}


@dataclass(frozen=True)
class Fit:
    """The result of `fit`.

    Arguments:
        model: the best model, in evaluation mode.
        value: mean log-likelihood on the test rows, in nats; NaN without test rows.
        stderr: its standard error, clustered by group if rows have groups.
        n: number of test rows.
        groups: number of groups that these come in; None for independent rows.
        columns: what was found of the columns.
        folder: the model's folder, with the recipe that makes it again, and the rows in `data`.
        tried: all runs, in order.
        best: the run that the model comes from.
        baselines: densities to compare with, best on validation rows.
        test_baselines: their values on the test rows, by name.
        leads: by how much the model is ahead of them on the test rows, and the standard error of
            this difference.
        minutes: wall minutes of this call.
        weights: the column that holds the weights of the rows; None if all count alike.
        untried: candidates for which the time was too short.
        all_steps: whether the best had all steps that the rows are good for, so that more time
            gives it no more.
        kept: what deletes a temporary folder when the result is deleted; None for a folder that
            stays.
    """

    model: FlowModel = field(repr=False)
    value: float
    stderr: float
    n: int
    groups: int | None
    columns: Findings = field(repr=False)
    folder: Path
    tried: tuple[Tried, ...] = field(repr=False)
    best: Tried
    baselines: tuple[Baseline, ...] = field(repr=False)
    test_baselines: dict[str, float]
    leads: dict[str, tuple[float, float]]
    minutes: float
    weights: str | None = None
    untried: tuple[str, ...] = ()
    all_steps: bool = False
    kept: Any = field(default=None, repr=False)

    @property
    def table(self) -> pandas.DataFrame:
        """Name, round, steps, validation in nats, CPU minutes and end of all that was tried."""
        import pandas

        rows: list[dict[str, Any]] = [
            {
                "name": one.name,
                "round": str(one.round) if one.round else "last",
                "steps": one.done,
                "validation": math.nan if one.value is None else one.value,
                "cpu_minutes": one.cpu_minutes,
                "ended": one.ended,
            }
            for one in self.tried
        ]
        rows += [
            {"name": one.name, "round": "", "steps": 0, "validation": one.validation}
            for one in self.baselines
        ]
        return pandas.DataFrame(rows)

    @property
    def margin(self) -> float | None:
        """`1 - L`, with the largest certified Lipschitz constant of the model's nets."""
        return worst(ModelFolder(self.folder).config().certificate).margin

    def __str__(self) -> str:
        return self.report()

    def report(self) -> str:
        """The result in lines for people."""
        best, cpu = self.best, sum(one.cpu_minutes for one in self.tried)
        run = "the last run" if best.round == 0 else f"round {best.round} of the search"
        ended = _ENDS.get(best.ended, best.ended)
        lines = {"best": f"{best.name}, {run}: {ended}, best at step {best.best_step:,}"}
        later = self.tried[self.tried.index(best) :]  # it may have gone on without a gain
        runs = [one for one in later if one.name == best.name]
        worse = 0.0 if runs[-1].last is None else best.rank - runs[-1].last
        done = sum(one.done for one in runs)
        more = "the rows are good for no more steps" if self.all_steps else "give fit more minutes"
        remedy = "more weight_decay in recipe.yaml"
        remedy = remedy if self.all_steps else f"more minutes, or {remedy}"
        lines["so"] = course(best.best_step, done, worse, "nats", remedy)
        if runs[-1].ended == "time":
            lines["so"] = "stopped before its learning rate had fallen: too early to tell"
        for one in self.tried:
            if one.ended == "time":
                lines["clock"] = (
                    f"stopped {one.name} at step {one.done:,} of {one.steps:,}: --resume goes on"
                )
        if self.untried:
            lines["not tried"] = f"{', '.join(self.untried)}: give fit more minutes"
        simple = max(self.baselines, key=lambda one: one.validation, default=None)
        if simple is not None and simple.validation > best.rank:
            lines["so"] += f"; a {simple.name} is ahead on validation rows: {more}"
        alone = max(self.tried, key=lambda one: one.rank)
        if alone.rank > best.rank:  # as members of an ensemble begin anew
            lines["so"] += f"; {alone.name} alone is ahead on validation rows: {more}"
        if self.n:
            others = ", ".join(f"{name} {value:.4f}" for name, value in self.test_baselines.items())
            by = "" if self.weights is None else f", weighted by {self.weights}"
            lines["test"] = (
                f"{self.value:.4f} +- {self.stderr:.4f} nats{clustered(self.groups)} on "
                f"{self.n:,} rows{by} ({others})"
            )
            if self.leads:
                lines["lead"] = ", ".join(
                    f"{lead:.4f} +- {error:.4f} over {name}" + " (level)" * (abs(lead) < 2 * error)
                    for name, (lead, error) in self.leads.items()
                )
        blocks = any(True for _ in self.model.blocks())
        margin = "not certified" if self.margin is None else f"margin {self.margin:.4f}"
        lines["certificate"] = (
            margin if blocks else "none needed: splines are invertible as they are"
        )
        lines["time"] = f"{cpu:.1f} CPU minutes, {self.minutes:.1f} minutes by the clock"
        lines["folder"] = str(self.folder)
        if self.kept is None:
            folder = shlex.quote(str(self.folder))
            lines["next"] = f"impflow-zoo evaluate {folder}"
            given = " --given FILE" if self.columns.given else ""
            lines[""] = f"impflow-zoo sample {folder} -n 1000{given} --out samples.csv"
            if blocks:
                lines[" "] = f"impflow-zoo certify {folder}"
        text = [_line(key, value) for key, value in lines.items()]
        return "\n".join([*tried_lines(self.tried, self.baselines), "", *text])


def _line(key: str, value: str) -> str:
    """A line of the report. Commands and paths, which people copy, are not broken."""
    line = f"{key:12} {value}".rstrip()
    broken = key in ("so", "not tried")
    return textwrap.fill(line, 100, subsequent_indent=13 * " ") if broken else line


def tried_lines(tried: tuple[Tried, ...], baselines: tuple[Baseline, ...]) -> list[str]:
    """A table of runs and of what they are compared with."""
    names = [*(one.name for one in tried), *(one.name for one in baselines)]
    width = max(map(len, ("tried", *names)))
    lines = [f"{'tried':{width}}  {'round':>5}  {'steps':>6}  validation, nats  CPU minutes"]
    for one in tried:
        value = "none" if one.value is None else f"{one.value:.4f}"
        lines.append(
            f"{one.name:{width}}  {one.round or 'last':>5}  {one.done:>6}  {value:>16}  "
            f"{one.cpu_minutes:>11.1f}"
        )
    for base in baselines:
        lines.append(f"{base.name:{width}}  {'':>5}  {'':>6}  {base.validation:>16.4f}")
    return lines
