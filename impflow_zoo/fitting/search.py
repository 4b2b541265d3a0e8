"""A search by successive halving, and the training of the best: runs in folders of their own.

Each candidate has a folder with an ordinary training. What it is given later is another stage of
its recipe, which starts from the weights of the stage before. So a fit that was killed goes on
where it was: runs that have ended are read back, the one that was interrupted is resumed.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from impflow_zoo.data import TableSource
from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.fitting.budget import (
    SHORT_VALIDATIONS,
    VALIDATIONS,
    Plan,
    price,
)
from impflow_zoo.fitting.columns import Findings
from impflow_zoo.fitting.portfolio import (
    VALIDATED,
    Candidate,
    heavier,
    lighter,
    training_settings,
    variants,
)
from impflow_zoo.fitting.texts import recipe_text
from impflow_zoo.models.fields import ConfigError, ModelError, convert, require
from impflow_zoo.models.filenames import CHECKPOINT, CONFIG, GOLDEN, RECIPE, TRAINING, WEIGHTS
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.models.reading import read_json
from impflow_zoo.models.writing import write_whole
from impflow_zoo.training.ensembles import join
from impflow_zoo.training.folders import only_run
from impflow_zoo.training.recipe import read_recipe
from impflow_zoo.training.run import train_on
from impflow_zoo.transforms.base import NUMERICAL_ERRORS

__all__ = ["STATE", "WALL", "Search", "StoppedFitError", "Tried", "read_state"]

STATE = "fit.json"
WALL = 3.0  # minutes by the clock per minute of its work after which the last run is stopped
_STEEP = 1.0  # nats; two weight decays differed by up to 0.25 on the tables of the benchmark
_OVERFITTED = 0.02  # nats between the best and the last validation of a run
_HEAD = """impflow-zoo train FOLDER/recipe.yaml --data FOLDER/data
FOLDER: the folder that `impflow-zoo fit` has written; its rows are shuffled and split"""


class StoppedFitError(KeyboardInterrupt):
    """A signal has asked to stop. It is no `Exception`: searches go on after those."""


@dataclass(frozen=True)
class Tried:
    """A run that has ended.

    Arguments:
        name: of the candidate.
        round: of the search, from 1; 0 for the last run, which trains the best.
        steps: of the schedule.
        done: steps that were done.
        best_step: the one with the best validation value; 0 if an earlier run of it was better.
        value: mean log-likelihood on validation rows, in nats, the best so far; None if no
            validation succeeded.
        cpu_minutes: CPU time.
        ended: why: `steps`, `time`; or the error that ended it.
        last: the value of its last validation, in nats; None if none succeeded.
    """

    name: str
    round: int
    steps: int
    done: int
    best_step: int
    value: float | None
    cpu_minutes: float
    ended: str
    last: float | None = None

    @property
    def rank(self) -> float:
        """The value, minus infinity if there is none."""
        return -math.inf if self.value is None else self.value

    def line(self) -> str:
        """The run in a line for people."""
        value = "no value" if self.value is None else f"{self.value:.4f} nats"
        round_ = f"round {self.round}" if self.round else "the best"
        return (
            f"{round_}: {self.name}, {self.done} steps, validation {value}, "
            f"{self.cpu_minutes:.1f} CPU minutes"
        )


def read_state(folder: Path) -> tuple[dict[str, Any], list[Tried]]:
    """What was asked of the fit in a folder, and the runs that have ended.

    Raises:
        ModelError: if the file is damaged.
    """
    path = folder / STATE
    try:
        state = read_json(path, str(path))
        asked, tried = state["asked"], state["tried"]
        require(isinstance(asked, dict), "asked", asked, "settings by name")
        return asked, convert(tried, list[Tried], "tried")
    except (ConfigError, KeyError, TypeError):
        raise ModelError(f"{path} is damaged: start again with another --out") from None


@dataclass
class Search:
    """A search over candidates and the training of the best one.

    Arguments:
        findings: the columns.
        splits: rows to train and to validate on.
        folder: where runs go; it holds the best model so far.
        asked: what is to be found in the state of a search that goes on.
        work: of all runs.
        seed: of all runs.
        processes: where they run.
        progress: show a progress bar of each run.
        say: told a line when a run has ended.
        weights: what the column is called that holds the weights of the rows, if they have any.
        members: last runs, with seeds that follow each other, whose mixture is the model.
        card: the texts of the card.
    """

    findings: Findings
    splits: Mapping[str, TableSource]
    folder: Path
    asked: Mapping[str, Any]
    work: float
    seed: int
    processes: Processes
    progress: bool
    say: Callable[[str], None]
    weights: str | None = None
    members: int = 1
    card: Mapping[str, Any] = field(default_factory=dict)
    tried: list[Tried] = field(default_factory=list)
    stages: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # of each candidate
    spent: dict[str, float] = field(default_factory=dict)  # work of each candidate so far
    left: float = 0.0
    all_steps: bool = False  # whether a last run does all that its rows are good for

    def run(self, entrants: Sequence[Candidate], plan: Plan, wall: float = WALL) -> Tried:
        """Try candidates, train the best, and return the best of all runs, or the ensemble.

        Arguments:
            entrants: the candidates, the most promising first.
            plan: rounds of the search; without any, the first candidate is trained.
            wall: minutes by the clock per minute of its work after which the last run is stopped.

        Raises:
            StoppedFitError: if a signal asks to stop.
        """
        self._read()
        self.left = self.work
        found, total = list(entrants), 0.0
        for number, size in enumerate(plan.sizes):
            leaders = found[:size]
            if number == 1 and plan.variants:
                leaders = [*found[: size - 2], *variants(found[0])]
            total += plan.unit * 2**number
            found = self._round(leaders, number + 1, total, plan)
        if plan.decay:
            found = [self._decayed(found[0], len(plan.sizes) + 1, total + plan.decay, plan)]
        members = self._members(found[0])
        last = [self._long(one, self.left / self.members, wall) for one in members]
        if self.members > 1 and all(one.value is not None for one in last):
            return self._join(members[0], last)
        return max(self.tried, key=lambda one: one.rank)

    def _round(
        self, leaders: Sequence[Candidate], number: int, total: float, plan: Plan
    ) -> list[Candidate]:
        """The candidates by their values, the best first, when each has had this much work."""
        ranks = {one.name: self._next(one, number, total, plan).rank for one in leaders}
        return sorted(leaders, key=lambda one: -ranks[one.name])

    def _decayed(self, leader: Candidate, number: int, total: float, plan: Plan) -> Candidate:
        """The leader or its variant with another weight decay, whichever is better at equal work.

        The variant of a leader that overfits has more, others have less. While the leader gains
        much by more steps, its steps matter more: there is no variant then.
        """
        earlier = (leader.name, number - 1)
        before = next(one.rank for one in self.tried if (one.name, one.round) == earlier)
        variants = [lighter(leader), heavier(leader)]
        for one in variants:
            self._branch(leader, one)
        after = self._next(leader, number, total, plan)
        if after.last is not None and after.rank - after.last > _OVERFITTED:
            variant = variants[1]
        else:
            variant = leader if after.rank - before > _STEEP else variants[0]
        for one in variants:
            if one != variant:
                shutil.rmtree(self.folder / "tried" / one.name)
        if variant == leader:
            return leader
        return variant if self._next(variant, number, total, plan).rank > after.rank else leader

    def _next(self, one: Candidate, number: int, total: float, plan: Plan) -> Tried:
        """The next run of a candidate in the search, by which it has had this much work."""
        cost = price(one, self.findings, *map(len, self.splits.values()))
        work = total - self.spent.get(one.name, 0.0)
        steps = plan.steps(cost, work, self.work)
        self.left -= SHORT_VALIDATIONS * cost.validation + steps * cost.step
        self.spent[one.name] = total
        return self._one(one, number, steps, SHORT_VALIDATIONS, None)

    def _branch(self, known: Candidate, new: Candidate) -> None:
        """Let a new candidate go on from where a known one is."""
        self.stages[new.name] = [*self.stages[known.name]]
        self.spent[new.name] = self.spent[known.name]
        source, target = (self.folder / "tried" / one.name for one in (known, new))
        if not target.exists():
            copy = target.with_name(f".{target.name}")
            shutil.rmtree(copy, ignore_errors=True)  # left by a fit that was killed
            shutil.copytree(source, copy)
            copy.rename(target)

    def _long(self, candidate: Candidate, work: float, wall: float) -> Tried:
        cost = price(candidate, self.findings, *map(len, self.splits.values()))
        done = sum(stage["steps"] for stage in self.stages.get(candidate.name, []))
        affordable = cost.steps(work, VALIDATIONS)
        self.all_steps = affordable >= cost.most - done
        steps = max(1, min(cost.most - done, affordable))
        return self._one(candidate, 0, steps, VALIDATIONS, wall * work / 60 + 1)

    def _members(self, leader: Candidate) -> list[Candidate]:
        """What is trained last: the leader goes on, members of an ensemble begin with own seeds."""
        if self.members == 1:
            return [leader]
        return [
            replace(
                leader,
                name=f"{leader.name}-seed-{seed}",
                training={**leader.training, "seed": seed},
            )
            for seed in range(self.seed, self.seed + self.members)
        ]

    @property
    def _ensemble(self) -> str:
        return f"ensemble-of-{self.members}"

    def _join(self, candidate: Candidate, runs: Sequence[Tried]) -> Tried:
        """The mixture of the models of some runs, which is kept, as it was asked for."""
        name, folder = self._ensemble, self.folder / "tried"
        for known in self.tried:
            if known.name == name:
                return known
        start = time.process_time()
        value = join(
            [folder / one.name for one in runs],
            folder / name,
            self.splits["validation"],
            recipe=self._text(candidate, ensemble=self.members).encode(),
            seed=self.seed,
            limit=VALIDATED,
            processes=self.processes,
        )
        minutes = (time.process_time() - start) / 60
        done = replace(runs[0], name=name, value=value, cpu_minutes=minutes, last=None)
        self._keep(done)
        self.tried.append(done)
        self._write()
        self.say(done.line())
        return done

    def _text(self, candidate: Candidate, ensemble: int = 1) -> str:
        """The recipe of a candidate, with its stages so far."""
        return recipe_text(
            self.findings,
            candidate.model,
            candidate.full_config(self.findings),
            self.stages[candidate.name],
            data={} if self.weights is None else {"weights": self.weights},
            card=self.card,
            ensemble=ensemble,
            head=_HEAD,
        )

    def _one(
        self,
        candidate: Candidate,
        number: int,
        steps: int,
        validations: int,
        max_minutes: float | None,
    ) -> Tried:
        """The next run of a candidate: read back, resumed, or made."""
        rows, seed = len(self.splits["train"]), self.seed
        # No patience: a stage starts with a high rate, by which validation gets worse at first.
        stage = training_settings(
            candidate, steps, rows, seed=seed, validations=validations, patience=None
        )
        self.stages.setdefault(candidate.name, []).append(stage)
        for known in list(self.tried):
            if (known.name, known.round) == (candidate.name, number):
                if known.ended != "time":
                    return known
                # Stopped by the clock: it may go on, and an ensemble is to be joined again.
                self.tried = [one for one in self.tried if one.name != self._ensemble]
                self.tried.remove(known)
        folder = self.folder / "tried" / candidate.name
        text = self._text(candidate)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RECIPE, text.encode())
        run = Tried(candidate.name, number, steps, 0, 0, None, 0.0, "")

        def improved(value: float) -> None:
            nonlocal run
            run = replace(run, value=value)
            self._keep_best(run)

        start = time.process_time()
        state: dict[str, Any] = {"step": 0, "best": None, "best_step": 0, "curve": []}
        try:
            with only_run(folder):
                state |= train_on(
                    read_recipe(folder / RECIPE),
                    (self.splits["train"], self.splits["validation"]),
                    folder,
                    kept=text.encode(),
                    resume=ModelFolder(folder).has(CHECKPOINT),
                    max_minutes=max_minutes,
                    processes=self.processes,
                    # Without a terminal short runs have the one line of `say`.
                    progress=self.progress and (number == 0 or sys.stderr.isatty()),
                    improved=improved,
                )
        except NUMERICAL_ERRORS as error:  # the others may do better
            seconds = time.process_time() - start
            state |= {"ended": str(error), "cpu_seconds": seconds, "best": run.value}
        if state["ended"] == "signal":
            raise StoppedFitError(
                f"a signal has stopped the fit; with resume=True a fit into {self.folder} goes on"
            )
        done = replace(
            run,
            done=state["step"],
            best_step=state["best_step"],
            value=state["best"],
            cpu_minutes=state["cpu_seconds"] / 60,
            ended=state["ended"] or "steps",  # it had ended before the fit was killed
            last=state["curve"][-1][2] if state["curve"] else None,
        )
        self._keep_best(done)
        self.tried.append(done)
        self._write()
        self.say(done.line())
        return done

    def _keep_best(self, new: Tried) -> None:
        """Copy the model of a run to the folder itself if it is the best so far."""
        if new.value is None or new.rank <= max(
            (one.rank for one in self.tried), default=-math.inf
        ):
            return
        self._keep(new)

    def _keep(self, new: Tried) -> None:
        run = ModelFolder(self.folder / "tried" / new.name)
        names = (CONFIG, WEIGHTS, GOLDEN, RECIPE, TRAINING)
        ModelFolder(self.folder).replace({name: (run.path / name).read_bytes() for name in names})

    def _read(self) -> None:
        if (self.folder / STATE).is_file():
            _, self.tried = read_state(self.folder)

    def _write(self) -> None:
        state = {"asked": dict(self.asked), "tried": [asdict(one) for one in self.tried]}
        write_whole(self.folder / STATE, (json.dumps(state, indent=1) + "\n").encode())
