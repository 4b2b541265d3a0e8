"""The loop of root finding: which rows go on, which are done, and which take a step back.

A method proposes iterates. Everything else is here: budget, tolerance, finiteness, the best
iterate of each row, and handing rows over to the next method. A row is frozen, by a mask, as soon
as its own residual is small enough; the host asks only now and then whether any is left.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from impflow_zoo.numerics.bound import BoundNet
from impflow_zoo.numerics.methods import METHODS
from impflow_zoo.numerics.rows import norm

__all__ = ["Leg", "Rows", "Status", "find_roots"]

_GROWTH = 10.0  # a residual this many times the best one sends the row back to its best iterate
_CHECK = 4  # evaluations from one judgement of a row's progress to the next
_PROGRESS = 0.998  # a residual has to fall below this fraction of the last one judged
_PATIENCE = 12  # judgements without progress before a row is given up
_FLOOR = 64.0  # how many eps times the size of the problem rounding may add up to
_SLOW = 12.0  # a method hands a row over when it foresees more steps than this
_FIRST_LOOK, _LONGEST = 3, 8  # evaluations before the host asks first, and between two questions
_CROWDED, _FEW = 0.75, 256  # open rows are moved together below this share, if that drops so many
_REACH = 1e-2  # an iterate longer than this / eps times the problem cancels its own residual


class Status(enum.IntEnum):
    """How the search for one row ended; `str` of a member says it in words."""

    CONVERGED = 0, "residual within tolerance"
    ROUNDING_FLOOR = 1, "residual at the rounding floor of the data type"
    MAX_STEPS = 2, "step budget spent"
    STALLED = 3, "no progress"
    NOT_FINITE = 4, "NaN or infinity met"

    text: str

    def __new__(cls, value: int, text: str) -> Status:
        member = int.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Leg:
    """One method's part of a search.

    Arguments:
        method: its name.
        budget: evaluations it may take.
        hand_over: give rows up as soon as they are slow.
    """

    method: str
    budget: int
    hand_over: bool


@dataclass
class Rows:
    """Where each row of a search stands. Squared residuals are in the square of its unit.

    Arguments:
        index: the row's number in the batch.
        y: its right-hand side, `[B, d]`.
        unit: what its residuals are measured in, its tolerance, `[B, 1]`.
        scale: size of its problem, `|y| + |w| + |f|` at the start, in its unit, `[B]`.
        w: its iterate, `[B, d]`.
        best: squared residual of the best iterate.
        best_point: the best iterate and its residual, side by side, `[B, 2 d]`.
        goal: squared residual to reach; infinite once the row is given up.
        status: a `Status`; that of given-up rows, until the search is over.
        steps: evaluations spent.
        judged: squared residual of the best iterate at the last judgement.
        idle: judgements without progress.
    """

    index: Tensor
    y: Tensor
    unit: Tensor
    scale: Tensor
    w: Tensor
    best: Tensor
    best_point: Tensor
    goal: Tensor
    status: Tensor
    steps: Tensor
    judged: Tensor
    idle: Tensor

    def at(self, index: Tensor) -> Rows:
        """Some of the rows, given by their indices."""
        return Rows(*(getattr(self, field.name)[index] for field in fields(self)))

    def put(self, index: Tensor, part: Rows) -> None:
        """Overwrite what was found of these rows."""
        for name in ("best", "best_point", "goal", "status", "steps"):
            getattr(self, name)[index] = getattr(part, name)

    @property
    def best_w(self) -> Tensor:
        """The best iterates, `[B, d]`."""
        return self.best_point[:, : self.y.shape[1]]

    @property
    def open(self) -> Tensor:
        """Rows that go on, `[B]`."""
        return self.best > self.goal


def find_roots(
    net: BoundNet, y: Tensor, tolerance: Tensor, legs: Sequence[Leg], initial: Tensor | None
) -> Rows:
    """Search for `w` with `w + g(w) = y`, row by row, one method after the other.

    Arguments:
        net: `g`.
        y: right-hand sides, with shape `[B, ...]`.
        tolerance: the residual asked for, `[B]`.
        legs: the methods in turn.
        initial: where to start; `y` if None.

    Returns:
        The rows, in order, with their final `status`.
    """
    found = _start(y.flatten(1), tolerance, None if initial is None else initial.flatten(1))
    goal, rows = found.goal, found
    for leg in legs:
        failed = _Search(net, y.shape[1:], found, rows, leg).run()
        solved = (found.best <= found.goal) & (found.goal < math.inf)
        ended = torch.where(found.best < math.inf, found.status, int(Status.NOT_FINITE))
        found.status = torch.where(solved, int(Status.CONVERGED), ended)
        if not failed:
            break
        left = (found.status == Status.MAX_STEPS) | (found.status == Status.STALLED)
        index = left.nonzero()[:, 0]
        if leg is legs[-1] or not len(index):
            break
        rows = found.at(index)
        rows.goal, rows.w = goal[index], rows.best_w
        rows.best, rows.idle = torch.full_like(rows.best, math.inf), rows.idle * 0
        rows.status = torch.full_like(rows.status, int(Status.MAX_STEPS))
    reach = found.scale * (_REACH / torch.finfo(y.dtype).eps)
    near = norm(found.best_w) <= reach * found.unit[:, 0]
    found.status = torch.where(near | (found.best == math.inf), found.status, int(Status.STALLED))
    return found


def _start(y: Tensor, tolerance: Tensor, initial: Tensor | None) -> Rows:
    """Rows that nothing is known of yet."""
    w, length = y if initial is None else initial, norm(y)
    # In this unit squares neither overflow nor vanish before a row is far beyond its tolerance.
    unit = tolerance.clamp(min=torch.finfo(y.dtype).tiny ** 0.5)
    infinite = torch.full_like(unit, math.inf)
    none = torch.zeros(len(y), dtype=torch.long, device=y.device)
    return Rows(
        index=torch.arange(len(y), device=y.device),
        y=y,
        unit=unit[:, None],
        scale=(2 * length if initial is None else length + norm(w)) / unit,
        w=w,
        best=infinite,
        best_point=torch.cat((w, torch.zeros_like(w)), dim=1),
        goal=torch.ones_like(unit),
        status=none + int(Status.MAX_STEPS),
        steps=none,
        judged=infinite,
        idle=none.clone(),
    )


class _Search:
    """One leg of a search.

    Arguments:
        net: the net, for the whole batch.
        shape: of a row of it.
        found: the whole batch.
        rows: those to work on: `found` itself, or a part of it.
        leg: how.
    """

    def __init__(self, net: BoundNet, shape: torch.Size, found: Rows, rows: Rows, leg: Leg) -> None:
        part = net if rows is found else net.rows(rows.index)
        self.method = METHODS[leg.method](part, rows.unit, rows.y.shape[1])
        self.shape, self.found, self.rows, self.leg = shape, found, rows, leg
        self.step, self.seen_at = 0, 0
        self.past: list[Tensor] = []  # `rows.judged` over the trial of the method
        self.distance = math.inf  # of open rows to their goals, mean of logarithms, when last seen
        kind = rows.y.device.type
        narrow = torch.is_autocast_enabled(kind)
        self.exactly = torch.autocast(kind, enabled=False) if narrow else nullcontext()

    def run(self) -> bool:
        """Work until every row is solved or given up; whether some may be given up."""
        look, failed = min(_FIRST_LOOK, self.leg.budget), False
        while True:
            self.step += 1
            value = self.method.evaluate(self.rows.w.view(-1, *self.shape)).flatten(1)
            with self.exactly:
                point, usable = self._take(value)
                if self.step % _CHECK == 0:
                    self._judge()
                if self.step == look or self.step == self.leg.budget:
                    left, ahead, given_up = self._look()
                    failed = failed or given_up  # by rows that may be dropped now
                    if not left or self.step == self.leg.budget:
                        failed = failed or left > 0
                        break
                    look = self.step + ahead
                    point, usable = self._move_together(left, ahead, point, usable)
                self.rows.w = self.method.propose(point, usable)
        if self.rows is not self.found:
            self.found.put(self.rows.index, self.rows)
        return failed

    def _take(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Note the residuals at the iterates.

        Returns:
            Iterates and residuals to go on from, `[B, 2 d]`, and False for rows that are back at
            their best iterate, `[B]`.
        """
        rows = self.rows
        f = torch.sub(rows.y, value).sub_(rows.w)
        error = torch.mv((f / rows.unit).square_(), self.method.ones)
        point, still_open = torch.cat((rows.w, f), dim=1), rows.open
        if self.step == 1:
            if rows is self.found:
                rows.scale = rows.scale + error.sqrt()
            rows.judged, self.past = error, [error]
        rows.steps = rows.steps + still_open
        better = (error < rows.best) & still_open
        rows.best = torch.where(better, error, rows.best)
        rows.best_point = torch.where(better[:, None], point, rows.best_point)
        usable = error <= _GROWTH**2 * rows.best
        return torch.where(usable[:, None], point, rows.best_point), usable

    def _judge(self) -> None:
        """Give up rows at the floor of rounding, without progress, or too slow for the method."""
        rows = self.rows
        length = norm(rows.best_w) / rows.unit[:, 0]
        size = rows.scale + torch.minimum(length, 100 * rows.scale)
        progress = rows.best <= _PROGRESS * rows.judged
        rows.idle = torch.where(progress, 0, rows.idle + 1)
        floor = ~progress & (rows.best <= (_FLOOR * torch.finfo(size.dtype).eps * size).square())
        stalled = rows.idle >= _PATIENCE
        if self.leg.hand_over and self.step >= self.method.trial:
            span = min(self.method.trial, self.step - 1)
            rate = (rows.best / self.past[0]).clamp(1e-12, 1 - 1e-6)
            stalled = stalled | (rows.best * rate.pow(_SLOW / span) > rows.goal)
        ended = (floor | stalled) & rows.open
        reason = torch.where(floor, int(Status.ROUNDING_FLOOR), int(Status.STALLED))
        rows.status = torch.where(ended, reason, rows.status)
        rows.goal = torch.where(ended, math.inf, rows.goal)
        rows.judged = rows.best
        self.past = [*self.past, rows.best][-self.method.trial // _CHECK :]

    def _look(self) -> tuple[int, int, bool]:
        """How many rows are left, how many evaluations they need, whether some were given up."""
        rows = self.rows
        distance = (rows.best / rows.goal).log().clamp(min=0)
        given_up = rows.status == Status.STALLED
        figures = torch.stack((rows.open.sum(), distance.sum(), given_up.sum()))
        left, total, failed = figures.tolist()
        if not math.isfinite(total):  # a row without any residual is not searched for
            rows.goal = torch.where(rows.best < math.inf, rows.goal, math.inf)
            left, total, failed = int(rows.open.sum()), 0.0, 1
        mean, before = total / max(left, 1), self.distance
        gained = (before - mean) / (self.step - self.seen_at)
        self.distance, self.seen_at = mean, self.step
        ahead = mean / gained if 0 < gained < math.inf else 1
        return int(left), max(1, min(int(ahead), _LONGEST)), bool(failed)

    def _move_together(
        self, left: int, ahead: int, point: Tensor, usable: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Drop rows that are done, where that saves enough."""
        rows = self.rows
        count = len(rows.y)
        few = count - left < _FEW and rows.y.shape[1] < _FEW and ahead < _CHECK
        if left > _CROWDED * count or few:
            return point, usable
        kept = rows.open.int().argsort(descending=True, stable=True)[:left]
        if rows is not self.found:
            self.found.put(rows.index, rows)
        self.rows, self.past = rows.at(kept), [best[kept] for best in self.past]
        self.method.keep(kept)
        return point[kept], usable[kept]
