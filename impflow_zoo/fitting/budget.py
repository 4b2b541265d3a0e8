"""The work of a fit: what steps cost, which candidates are tried, and for how many steps.

Work is counted, not measured, so that a busy machine does not change the result. Its unit is the
CPU second of one thread of the machine that the constants were measured on, by
`benchmarks/fit_costs.py`. A training step of a model with `P` parameters on `B` rows of `D` columns
costs

    blocks a + P (b + B (c + T d))

where `a` is the overhead of a block, `b` that of a parameter (the optimizer, and what makes
weights of it), `c` a pass of a row, and `d` a tangent of the Jacobian. There are `T = D` tangents
while log-determinants are exact in training, up to 10 columns; an estimate costs as much as 6. No
step costs less than 2 ms for each block, and 2 ms for the rest. A validation of `B` rows costs

    P B (e + min(D, 64) f)

where `e` is a pass of a row, with its share of saving the model, and `f` a tangent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

from impflow_zoo.fitting.columns import Findings
from impflow_zoo.fitting.portfolio import VALIDATED, Candidate, batch_size
from impflow_zoo.models.budget import without_numbers
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.config import parse

__all__ = [
    "SHORT_VALIDATIONS",
    "VALIDATIONS",
    "Plan",
    "Price",
    "plan",
    "price",
    "prices",
    "score_terms",
    "step_terms",
]

_EXACT, _EXACT_SCORES = 10, 64  # columns up to which log-determinants are exact
_ESTIMATED = 6  # tangents that an estimate of them is worth
SEARCH, DECAYS = 0.2, 0.3  # parts of the work: for the rounds, and to choose the weight decay
_LEAST_STEP = 2e-3  # work of torch and Python for a block, however small
_LEAST_STEPS = 80  # of a first run: fewer do not tell slow candidates from bad ones
_LEAST_DECAY_STEPS = 300  # in shorter runs weight decay helps on every table
_LAST = 3  # runs of a round that no further one follows
_VARIANTS = 5  # candidates that a search begins with if variants of the leader are worth trying
_PASSES, _ROWS = 250, 8000  # over so many rows; with the root of their number
VALIDATIONS, SHORT_VALIDATIONS = 20, 3  # of the last run and of a run of the search


@dataclass(frozen=True)
class Cost:
    """Constants of a kind of candidate, see above."""

    block: float
    parameter: float
    row: float
    tangent: float
    scored: float
    scored_tangent: float


COSTS = {  # printed by the script, which says how far they are off
    "implicit": Cost(0.012, 0, 0, 1.7e-10, 8.6e-10, 3.3e-11),
    "implicit-sandwich": Cost(0, 1.9e-07, 5.5e-11, 6.1e-11, 2.9e-10, 2e-11),
    "spline-autoregressive": Cost(0.0018, 9.2e-08, 1.7e-10, 1.6e-12, 1.5e-10, 6.3e-12),
    "spline-24-bins": Cost(0.0038, 4.1e-08, 1.9e-10, 0, 1.6e-10, 3.6e-12),
    "implicit-spline": Cost(0, 1.8e-07, 1.5e-10, 3.3e-11, 2.8e-10, 1.6e-11),
    "residual": Cost(9.1e-05, 1.9e-07, 0, 5.9e-11, 2.2e-10, 1.9e-11),
    "spline-coupling": Cost(0, 1.2e-07, 1.9e-10, 3.2e-13, 1.6e-10, 3.9e-12),
}


def step_terms(parameters: int, blocks: int, features: int, batch: int) -> list[float]:
    """What the first four constants are multiplied by."""
    rows = parameters * batch
    tangents = features if features <= _EXACT else _ESTIMATED
    return [blocks, parameters, rows, rows * tangents]


def score_terms(parameters: int, features: int, rows: int) -> list[float]:
    """What the last two constants are multiplied by."""
    return [parameters * rows, parameters * rows * min(features, _EXACT_SCORES)]


@dataclass(frozen=True)
class Price:
    """What a candidate costs on a table.

    Arguments:
        step, validation: work of a step, and of a validation.
        most: steps that the rows are good for.
    """

    step: float
    validation: float
    most: int

    @property
    def longest(self) -> float:
        """Work of all steps that the rows are good for, and of the validations."""
        return self.most * self.step + VALIDATIONS * self.validation

    def steps(self, work: float, validations: int) -> int:
        """The steps that can be done for some work, validations included."""
        return max(1, min(self.most, int((work - validations * self.validation) / self.step)))


def price(candidate: Candidate, findings: Findings, rows: int, validated: int) -> Price:
    """What a candidate costs.

    Arguments:
        candidate: a model with the settings of its training.
        findings: the columns of the table.
        rows, validated: number of training rows, and of validation rows.
    """
    kind, config = model_class(candidate.model), parse(candidate.full_config(findings))
    model = without_numbers(lambda: kind(config))
    parameters = sum(p.numel() for p in model.parameters())
    blocks = candidate.config.get("blocks", 5)
    number = blocks if isinstance(blocks, int) else len(blocks)
    own, features = COSTS.get(candidate.kind, COSTS["implicit"]), len(findings.columns)
    batch = candidate.training.get("batch_size", batch_size(rows))
    training = (own.block, own.parameter, own.row, own.tangent)
    step = _sum(training, step_terms(parameters, number, features, batch))
    step = max(step, _LEAST_STEP * (1 + number))  # what small models cost: calls, not arithmetic
    scoring = score_terms(parameters, features, min(VALIDATED, validated))
    passes = _PASSES * math.sqrt(rows / _ROWS)
    most = max(1, math.ceil(passes * rows / batch))
    return Price(step, _sum((own.scored, own.scored_tangent), scoring), most)


def prices(
    entrants: Sequence[Candidate], findings: Findings, splits: Mapping[str, Sized]
) -> list[Price]:
    """What candidates cost on rows that are split."""
    rows, validated = len(splits["train"]), len(splits["validation"])
    return [price(one, findings, rows, validated) for one in entrants]


def _sum(constants: Sequence[float], terms: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(constants, terms, strict=True))


@dataclass(frozen=True)
class Plan:
    """A search by successive halving, then a choice between two values of the weight decay.

    Arguments:
        sizes: number of runs of each round.
        unit: work of each run of the first round; it doubles from round to round.
        variants: whether variants of the leader enter the second round.
        decay: work of each of the two runs that choose the weight decay; 0 makes none.
        longest: work that a candidate can use, as its rows are good for so many steps.
    """

    sizes: tuple[int, ...] = ()
    unit: float = 0.0
    variants: bool = False
    decay: float = 0.0
    longest: float = math.inf

    def path(self, work: float) -> float:
        """The work that the best candidate gets of all work, over all of its runs."""
        rounds = [self.unit * 2**i for i in range(len(self.sizes))]
        tried = sum(size * one for size, one in zip(self.sizes, rounds, strict=True))
        # Both variants enter with nothing, and do the work of the first round, too.
        caught_up = 2 * self.unit if self.variants else 0.0
        return min(work - tried - caught_up - self.decay + sum(rounds), self.longest)

    def steps(self, price: Price, part: float, work: float) -> int:
        """The steps of a run of the search.

        If the rows allow fewer steps than the work, a run has its share of those.

        Arguments:
            price: of the candidate.
            part: work of the run.
            work: of the whole fit.
        """
        most = math.ceil(price.most * part / self.path(work))
        return min(most, price.steps(part, SHORT_VALIDATIONS))


def plan(prices: Sequence[Price], work: float, members: int = 1) -> Plan:
    """How many of the candidates are tried, and how long.

    So many that each of them gets enough steps in the first round; with little work none, and the
    first one is trained at once. Two values of its weight decay are tried if each run gets enough
    steps to tell them apart. The rows of a small table are good for few steps, so for few rounds;
    what they leave of the work tries more candidates.

    Arguments:
        prices: of the candidates, the most promising first.
        work: of the whole fit.
        members: number of last runs.
    """
    decay = DECAYS * work / 2
    least = min(_LEAST_DECAY_STEPS, prices[0].most)
    if prices[0].steps(decay, SHORT_VALIDATIONS) < least or least < _LEAST_STEPS:
        decay = 0.0
    few = min(one.most for one in prices)  # a run of round i has 2^i times the steps of the first
    rounds = max(1, int(math.log2(1 + SEARCH * few / _LEAST_STEPS)))
    for first in range(len(prices), 1, -1):
        variants = first >= _VARIANTS and rounds > 1
        sizes = [first]
        while sizes[-1] > _LAST and len(sizes) < rounds:
            sizes.append(math.ceil(sizes[-1] / 2) + (2 if variants and len(sizes) == 1 else 0))
        shares = sum(size * 2**i for i, size in enumerate(sizes)) + (2 if variants else 0)
        longest = max(one.longest for one in prices[:first])
        # The twin of the best and the last runs cannot use more than `longest` each.
        left = max(SEARCH * work, work - (1 + members) * longest)
        unit = left / shares  # the two variants make up for the first round
        steps = [(one.steps(unit, SHORT_VALIDATIONS), one.most) for one in prices[:first]]
        if all(count >= min(_LEAST_STEPS, most) for count, most in steps):
            unit = min(unit, SEARCH * longest / (2 ** len(sizes) - 1))
            return Plan(tuple(sizes), unit, variants, min(decay, DECAYS * longest), longest)
    return Plan()
