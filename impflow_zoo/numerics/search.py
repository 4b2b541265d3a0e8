"""The loop of root finding: which rows go on, which are done, and which take a step back.

A method proposes iterates. Everything else is here: budget, tolerance, finiteness, the best
iterate of each row, and handing rows over to the next method.
"""

from __future__ import annotations

import enum
import math

import torch
from torch import Tensor

from impflow_zoo.numerics.methods import Method
from impflow_zoo.numerics.rows import Net, all_finite, norm, select

__all__ = ["Search", "Status"]

_REACH = 1e-2  # an iterate longer than this / eps times the problem cancels its own residual
_GROWTH = 10.0  # a residual this many times the best one sends the row back to its best iterate
_PROGRESS = 0.999  # a residual has to fall below this fraction of the last mark to count
_PATIENCE = 50  # evaluations without progress before a row is given up
_FLOOR_STEPS = 3  # evaluations without progress that show the rounding floor
_FLOOR = 64.0  # how many eps times the size of the problem rounding may add up to
_SLOW = 12.0  # a method hands a row over when it foresees more steps than this after its trial
_CROWDED = 0.75  # share of open rows below which the others are no longer evaluated along

_OPEN = -1  # in place of a `Status`


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


class Search:
    """What is known of every row over the methods of a plan.

    Arguments:
        g: the net.
        context: one context per row, or None.
        y: right-hand sides, with shape `[B, ...]`.
        tolerance: the residual asked for, `[B]`.
        initial: where to start; `y` if None.
    """

    def __init__(
        self, g: Net, context: Tensor | None, y: Tensor, tolerance: Tensor, initial: Tensor | None
    ) -> None:
        self.g = g
        self.context = context
        self.shape = y.shape[1:]
        self.target = y.flatten(1)
        self.tolerance = tolerance
        self.value = (y if initial is None else initial).flatten(1).clone()
        self.residual = torch.full_like(tolerance, math.inf)
        self.scale = self.residual.clone()  # size of the problem: |y| + |w| + |f| at the start
        self.steps = torch.zeros(len(y), dtype=torch.long, device=y.device)
        self.status = torch.full_like(self.steps, int(Status.MAX_STEPS))

    def run(self, method: type[Method], budget: int, *, hand_over: bool) -> None:
        """Work on the rows that are not solved yet, until each is solved or given up."""
        open_rows = (self.status > Status.ROUNDING_FLOOR) & (self.status != Status.NOT_FINITE)
        rows = open_rows.nonzero()[:, 0]
        if not len(rows):
            return
        leg = _Leg(self, method, rows)
        for step in range(1, budget + 1):
            leg.evaluate()
            status = leg.judge(hand_over=hand_over, last=step == budget)
            if status is not None and not leg.retire(status):
                return
            leg.advance()


class _Leg:
    """One method at work: the rows it has, and their recent past."""

    def __init__(self, search: Search, method: type[Method], rows: Tensor) -> None:
        self.search = search
        self.stepper = method(search.g, select(search.context, rows))
        self.rows = rows
        everything = len(rows) == len(search.target)
        self.y, self.w, self.tolerance, self.scale = (
            t if everything else t[rows]
            for t in (search.target, search.value, search.tolerance, search.scale)
        )
        self.best_w, self.best_f = self.w, torch.zeros_like(self.w)
        self.best = torch.full_like(self.tolerance, math.inf)
        self.mark, self.idle = self.best, torch.zeros_like(rows)
        self.never = self.idle
        self.alive = torch.ones_like(rows, dtype=torch.bool)
        self.past: list[Tensor] = []
        self.step = 0

    def evaluate(self) -> None:
        """The residual at the iterate, and the best one of each row so far."""
        self.step += 1
        g = self.stepper.evaluate(self.w.view(-1, *self.search.shape)).flatten(1)
        self.f = (self.y - self.w).sub_(g)
        self.error, self.length = norm(self.f), norm(self.w)
        if self.step == 1:
            start = norm(self.y) + self.length + self.error.nan_to_num(math.inf)
            self.scale = torch.minimum(self.scale, start)
            self.reach = self.scale * (_REACH / torch.finfo(self.w.dtype).eps)
        self.near = self.length <= self.reach
        # False for a residual that is NaN or infinite, as the best one starts at infinity.
        better = (self.error < self.best) & self.near
        progress = better & (self.error < _PROGRESS * self.mark)
        self.steady = bool(progress.all())  # as long as this holds, there is little to decide
        if self.steady:
            self.best, self.best_w, self.best_f = self.error, self.w, self.f
            self.mark, self.idle = self.error, self.never
            return
        new = better[:, None]
        self.best = torch.where(better, self.error, self.best)
        self.best_w = torch.where(new, self.w, self.best_w)
        self.best_f = torch.where(new, self.f, self.best_f)
        self.mark = torch.where(progress, self.best, self.mark)
        self.idle = torch.where(progress, 0, self.idle + 1)

    def judge(self, *, hand_over: bool, last: bool) -> Tensor | None:
        """The `Status` of each row, `_OPEN` where it goes on; None if all do."""
        solved = self.best <= self.tolerance
        slow = self._slow() if hand_over and self.step > self.stepper.trial else None
        if self.steady and not last:
            ending = solved if slow is None else solved | slow
            if not bool(ending.any()):
                return None
        status = torch.full_like(self.rows, int(Status.MAX_STEPS) if last else _OPEN)
        eps = torch.finfo(self.w.dtype).eps
        size = self.scale + torch.minimum(self.length, 100 * self.scale)
        floor = _FLOOR * eps * size.clamp(max=torch.finfo(self.w.dtype).max)
        at_floor = (self.idle >= _FLOOR_STEPS) & (self.best <= floor)
        idle = self.idle >= _PATIENCE
        for rows, end in (  # the later ones count
            (idle if slow is None else idle | slow, Status.STALLED),
            (at_floor, Status.ROUNDING_FLOOR),
            (solved, Status.CONVERGED),
            (~self.best.isfinite(), Status.NOT_FINITE),
        ):
            status.masked_fill_(rows, int(end))
        return status

    def _slow(self) -> Tensor:
        """Rows that will take more than `_SLOW` steps, if they contract as over the trial."""
        rate = (self.error / self.past[0]).clamp(1e-6, 1 - 1e-6)
        return self.error * rate.pow(_SLOW / len(self.past)) > self.tolerance

    def retire(self, status: Tensor) -> bool:
        """Hand the rows that are done back to the search; whether any are left."""
        done = self.alive & (status >= 0)
        self.alive = self.alive & ~done
        left = int(self.alive.sum())
        search = self.search
        if len(self.rows) == len(search.target):  # all rows are here, in order: masks are faster
            whole = done[:, None]
            search.value = torch.where(whole, self.best_w, search.value)
            search.residual = torch.where(done, self.best, search.residual)
            search.status = torch.where(done, status, search.status)
            search.scale = torch.where(done, self.scale, search.scale)
            search.steps = torch.where(done, search.steps + self.step, search.steps)
        else:
            own = done.nonzero()[:, 0]
            at = self.rows[own]
            search.value[at], search.residual[at] = self.best_w[own], self.best[own]
            search.status[at], search.scale[at] = status[own], self.scale[own]
            search.steps[at] += self.step
        if 0 < left <= _CROWDED * len(self.rows):
            self._keep(self.alive.nonzero()[:, 0])
        return left > 0

    def _keep(self, kept: Tensor) -> None:
        self.stepper.keep(kept)
        self.past = [t[kept] for t in self.past]
        for name in (
            *("rows", "y", "w", "f", "error", "length", "tolerance", "scale", "reach", "near"),
            *("best", "best_w", "best_f", "mark", "idle", "never", "alive"),
        ):
            setattr(self, name, getattr(self, name)[kept])

    def advance(self) -> None:
        """The next iterates; a row that strays goes back to its best one."""
        self.past = [*self.past, self.error][-self.stepper.trial :]
        proposal = self.stepper.propose(self.w, self.f)
        if not (self.steady and all_finite(proposal)):
            usable = self.near & (self.error <= _GROWTH * self.best) & self.error.isfinite()
            back = ~usable | ~proposal.isfinite().all(dim=1)
            if bool(back.any()):
                self.stepper.forget(back)
                proposal = torch.where(back[:, None], self.best_w + self.best_f, proposal)
        self.w = proposal
