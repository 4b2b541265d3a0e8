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
from impflow_zoo.numerics.rows import wide_norm

_CHECK = 4  # evaluations from one judgement of a row's progress to the next
_PATIENCE = 48  # evaluations without progress before the last method gives a row up
_MANY = 256  # rows that are dropped although the search may be over at the next look
_FLOOR = 64.0  # how many eps times the size of the problem rounding may add up to


class Status(enum.IntEnum):
    """How the search for one row ended: the first two are roots."""

    CONVERGED = 0
    ROUNDING_FLOOR = 1
    MAX_STEPS = 2
    STALLED = 3
    NOT_FINITE = 4


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
class _Rows:
    """Where each row of a search stands; lengths are in float64.

    Arguments:
        y: its right-hand side, `[B, d]`.
        size: size of its problem, `[B]`.
        goal: residual to reach; infinite once the row is given up, `[B]`.
        point: its iterate and the residual there, side by side, `[B, 2 d]`.
        best: length of its least residual, `[B]`.
        best_point: the point of that, `[B, 2 d]`.
        status: a `Status`; for rows that go on it is `MAX_STEPS`, `[B]`.
        steps: evaluations spent, `[B]`.
    """

    y: Tensor
    size: Tensor
    goal: Tensor
    point: Tensor
    best: Tensor
    best_point: Tensor
    status: Tensor
    steps: Tensor

    def at(self, index: Tensor) -> _Rows:
        """Some of the rows, given by their indices."""
        return _Rows(*(getattr(self, field.name)[index] for field in fields(self)))

    def put(self, index: Tensor, part: _Rows) -> None:
        """Overwrite what was found of some rows, given by their indices."""
        for name in ("goal", "best", "best_point", "status", "steps"):
            whole = getattr(self, name).index_put((index,), getattr(part, name))
            setattr(self, name, whole)

    @property
    def best_w(self) -> Tensor:
        """The best iterates, `[B, d]`."""
        return self.best_point[:, : self.y.shape[1]]


def find_roots(
    net: BoundNet, y: Tensor, tolerance: Tensor, legs: Sequence[Leg]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Search for `w` with `w + g(w) = y`, row by row, one method after the other.

    Arguments:
        net: `g`.
        y: right-hand sides, with shape `[B, ...]`.
        tolerance: the residual asked for, `[B]`.
        legs: the methods in turn.

    Returns:
        The best iterates, with the shape of `y`; and of each row the residual there, the number
        of evaluations, and a `Status`, `[B]` each.
    """
    found = rows = _start(net, y, tolerance)
    index = None
    for leg in legs:
        if not len(y) or not _Search(net, y.shape[1:], found, rows, index, leg).run():
            break
        left = (found.best > tolerance) & (found.best < math.inf)
        index = (left & (found.status != Status.ROUNDING_FLOOR)).nonzero()[:, 0]
        if leg is legs[-1] or not len(index):
            break
        rows = found.at(index)
        rows.goal, rows.point = tolerance[index], rows.best_point
        rows.status = torch.full_like(rows.status, int(Status.MAX_STEPS))
    status = torch.where(found.best <= tolerance, int(Status.CONVERGED), found.status)
    status = torch.where(found.best < math.inf, status, int(Status.NOT_FINITE))
    # An iterate longer than that cancels its own residual.
    far = wide_norm(found.best_w) > found.size * (1e-2 / torch.finfo(y.dtype).eps)
    status = torch.where(far, int(Status.STALLED), status)
    return found.best_w.reshape(y.shape), found.best, found.steps, status


def _start(net: BoundNet, y: Tensor, tolerance: Tensor) -> _Rows:
    """Rows that were evaluated once, at `w = y`."""
    value, y = net.value(y).flatten(1), y.flatten(1)
    point = torch.cat((y, torch.sub(y, value).sub_(y)), dim=1)
    length = wide_norm(point[:, y.shape[1] :])
    return _Rows(
        y=y,
        # Finite, or no residual would be above the floor of rounding.
        size=(wide_norm(y) + wide_norm(point)).clamp(max=1e-4 * torch.finfo(length.dtype).max),
        goal=tolerance,
        point=point,
        best=length.nan_to_num(math.inf, math.inf),
        best_point=point,
        status=torch.full_like(length, int(Status.MAX_STEPS), dtype=torch.long),
        steps=torch.ones_like(length, dtype=torch.long),
    )


class _Search:
    """One leg of a search.

    Arguments:
        net: the net, for the whole batch.
        shape: of a row of it.
        found: the whole batch.
        rows: those to work on.
        index: their numbers in the batch, `[B]`; None if they are `found` itself.
        leg: how.
    """

    def __init__(
        self,
        net: BoundNet,
        shape: torch.Size,
        found: _Rows,
        rows: _Rows,
        index: Tensor | None,
        leg: Leg,
    ) -> None:
        self.method = METHODS[leg.method](net if index is None else net.rows(index), shape)
        self.found, self.rows, self.index, self.leg = found, rows, index, leg
        self.window = self.method.trial if leg.hand_over else _PATIENCE
        self.past = [rows.best]  # the least residuals at the judgements of the window
        self.usable = torch.ones_like(rows.status, dtype=torch.bool)
        self.step = 1 if index is None else 0
        self.seen_at, self.distance = 0, math.inf  # of the worst row to its goal, as a logarithm

    def run(self) -> bool:
        """Work until every row is solved or given up; False if surely none was given up."""
        look, judged = min(3, self.leg.budget), False
        kind = self.rows.y.device.type
        narrow = torch.is_autocast_enabled(kind)
        while self.step < self.leg.budget:
            with torch.autocast(kind, enabled=False) if narrow else nullcontext():
                w = self.method.propose(self.rows.point, self.usable)
            self.step += 1
            self._take(w, self.method.value(w))
            if self.step == look:
                ahead = self._look()
                if not ahead:
                    break
                look += ahead
            if self.step % _CHECK == 0:
                self._judge()
                judged = True
        else:
            judged = True
        if self.index is not None:
            self.found.put(self.index, self.rows)
        return judged

    def _take(self, w: Tensor, value: Tensor) -> None:
        """Note the residuals at new iterates; rows that strayed go back to their best one."""
        rows = self.rows
        f = torch.sub(rows.y, value).sub_(w)
        error, point = wide_norm(f), torch.cat((w, f), dim=1)
        still_open = rows.best > rows.goal
        rows.steps = rows.steps + still_open
        better = (error < rows.best) & still_open
        rows.best = torch.where(better, error, rows.best)
        rows.best_point = torch.where(better[:, None], point, rows.best_point)
        self.usable = error <= 10 * rows.best
        rows.point = torch.where(self.usable[:, None], point, rows.best_point)

    def _judge(self) -> None:
        """Give up rows at the floor of rounding, without progress, or too slow for the method."""
        rows = self.rows
        length = torch.minimum(wide_norm(rows.best_w), 100 * rows.size)
        floor = rows.best <= (_FLOOR * torch.finfo(rows.y.dtype).eps) * (rows.size + length)
        floor &= rows.best > 0.999 * self.past[-1]
        ended = floor
        if self.step >= self.window:
            rate = (rows.best / self.past[0]).clamp(1e-6, 1 - 1e-6)
            if self.leg.hand_over:  # a row that needs more than 12 steps from here
                foreseen = rows.best * rate.pow(12 / min(self.window, self.step - 1))
                ended = floor | (foreseen > rows.goal)
            else:
                ended = floor | (rate > 0.99)
        ended = ended & (rows.best > rows.goal)
        reason = torch.where(floor, int(Status.ROUNDING_FLOOR), int(Status.STALLED))
        rows.status = torch.where(ended, reason, rows.status)
        rows.goal = torch.where(ended, math.inf, rows.goal)
        self.past = [*self.past, rows.best][-(self.window // _CHECK) :]

    def _look(self) -> int:
        """How many evaluations the worst row needs, as far as foreseen; 0 if none is left."""
        rows = self.rows
        worst = float((rows.best / rows.goal).amax())
        if not math.isfinite(worst):  # a row without any residual is not searched for
            rows.goal = torch.where(rows.best == math.inf, math.inf, rows.goal)
            worst = float((rows.best / rows.goal).nan_to_num(0.0).amax())
        if worst <= 1:
            return 0
        distance, before = math.log(worst), self.distance
        gained = (before - distance) / (self.step - self.seen_at)
        self.distance, self.seen_at = distance, self.step
        ahead = max(1, min(int(distance / gained), 8)) if 0 < gained < math.inf else 1
        if ahead > 1 or len(rows.y) > _MANY:
            self._drop(at_least=1 if ahead > 1 else _MANY)
        return ahead

    def _drop(self, *, at_least: int) -> None:
        """Go on without the rows that are done, where these are many."""
        rows = self.rows
        kept = (rows.best > rows.goal).nonzero()[:, 0]
        if len(rows.y) - len(kept) < max(at_least, 0.25 * len(rows.y)):
            return
        if self.index is not None:
            self.found.put(self.index, rows)
        self.index = kept if self.index is None else self.index[kept]
        self.rows, self.usable = rows.at(kept), self.usable[kept]
        self.past = [best[kept] for best in self.past]
        self.method.keep(kept)
