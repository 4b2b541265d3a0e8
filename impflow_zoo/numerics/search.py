"""The loop of root finding: which rows continue, which are finished, which return to an iterate.

A method proposes iterates. This file does all else: budget, tolerance, finiteness, the best
iterate of each row, and the change to the next method. A row is frozen, by a mask, as soon as its
own residual is small enough; the host asks how many rows are left. The residual `|y - w - g(w)|`
may decide, as the error is at most `1 / (1 - kappa)` times as large.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from impflow_zoo.numerics.folded import FoldedNet
from impflow_zoo.numerics.methods import METHODS
from impflow_zoo.numerics.modes import is_transforming, seen
from impflow_zoo.numerics.rows import wide_norm

_CHECK = 4  # evaluations from one judgement of a row's progress to the next
_PATIENCE = 48  # evaluations without progress before the last method gives a row up
_FLOOR = 64.0  # how many eps times the size of the problem rounding may add up to


class Status(enum.IntEnum):
    """How the search for one row ended: the first two are roots."""

    CONVERGED = 0
    ROUNDING_FLOOR = 1
    MAX_STEPS = 2
    STALLED = 3
    NOT_FINITE = 4


class Leg(NamedTuple):
    """A method's part of a search: its name, its evaluations, and whether slow rows leave it."""

    method: str
    budget: int
    hand_over: bool


@dataclass
class _Rows:
    """The state of each row of a search; lengths are in float64."""

    y: Tensor  # right-hand side, `[B, d]`
    size: Tensor  # of the problem, `[B]`
    goal: Tensor  # residual to reach; infinite once the row is given up, `[B]`
    point: Tensor  # iterate and the residual there, side by side, `[B, 2 d]`
    usable: Tensor  # False where an iterate strayed and `point` is the best one instead, `[B]`
    best: Tensor  # length of the least residual; NaN where the first one was not finite, `[B]`
    best_point: Tensor  # `point` where `best` was reached, `[B, 2 d]`
    status: Tensor  # a `Status`; of rows that go on it is `MAX_STEPS`, `[B]`
    steps: Tensor  # evaluations spent, `[B]`

    def at(self, index: Tensor) -> _Rows:
        """Some of the rows, given by their indices."""
        return _Rows(*(getattr(self, field.name)[index] for field in fields(self)))

    def put(self, index: Tensor, part: _Rows) -> None:
        """Overwrite what was found of some rows, given by their indices."""
        for name in ("best", "best_point", "status", "steps"):
            setattr(self, name, getattr(self, name).index_put((index,), getattr(part, name)))

    def best_w(self) -> Tensor:
        """The best iterates, `[B, d]`."""
        return self.best_point[:, : self.y.shape[1]]

    def going(self) -> Tensor:
        """Which rows are neither solved nor given up, `[B]`."""
        return self.best > self.goal

    def take(self, w: Tensor, value: Tensor) -> int:
        """Note residuals at new iterates, send stray rows back to their best, count rows left."""
        f = torch.sub(self.y, value).sub_(w)
        error, point = wide_norm(f), torch.cat((w, f), dim=1)
        going = self.going()
        self.steps = self.steps + going
        better = (error < self.best) & going
        self.best = torch.where(better, error, self.best)
        self.usable = error <= 10 * self.best
        masks = seen(torch.stack((better, self.usable, self.going())).mT)
        gained, usable, left = masks.sum(dim=0).tolist()  # the host waits once
        self.point, old = point, self.best_point
        every = len(masks)
        self.best_point = point if gained == every else torch.where(better[:, None], point, old)
        if usable < every:
            self.point = torch.where(self.usable[:, None], point, self.best_point)
        return int(left)

    def judge(self, past: Sequence[Tensor], over: int | None, *, hand_over: bool) -> None:
        """Give up rows at the floor of rounding, without progress, or too slow for the method.

        `past` are the least residuals at earlier judgements, the first of them `over` evaluations
        ago; None: too few to know a rate.
        """
        length = torch.minimum(wide_norm(self.best_w()), 100 * self.size)
        floor = self.best <= (_FLOOR * torch.finfo(self.y.dtype).eps) * (self.size + length)
        floor &= self.best > 0.999 * past[-1]
        ended = floor
        if over is not None:
            rate = (self.best / past[0]).clamp(1e-6, 1 - 1e-6)
            if hand_over:  # a row that needs more than 12 steps from here
                ended = floor | (self.best * rate.pow(12 / over) > self.goal)
            else:
                ended = floor | (rate > 0.99)
        ended = ended & self.going()
        reason = torch.where(floor, int(Status.ROUNDING_FLOOR), int(Status.STALLED))
        self.status = torch.where(ended, reason, self.status)
        self.goal = torch.where(ended, math.inf, self.goal)


def find_roots(
    net: FoldedNet, y: Tensor, tolerance: Tensor, legs: Sequence[Leg]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Search for `w` with `w + g(w) = y`, row by row, one method after the other.

    Returns the best iterates, with the shape of `y`; and of each row the residual there, the number
    of evaluations, and a `Status`, `[B]` each.
    """
    batch, index = _start(net, y, tolerance), None
    for leg in legs:
        if not len(y) or not _search(net, y.shape[1:], batch, index, leg) or leg is legs[-1]:
            break
        left = (batch.best > tolerance) & (batch.status != Status.ROUNDING_FLOOR)
        index = _chosen(left)
        if not len(index):
            break
        batch.goal = torch.where(left, tolerance, math.inf)
    status = torch.where(batch.best <= tolerance, int(Status.CONVERGED), batch.status)
    status = torch.where(batch.best < math.inf, status, int(Status.NOT_FINITE))
    # Beyond this length rounding makes residuals meaningless.
    far = wide_norm(batch.best_w()) > batch.size * (1e-2 / torch.finfo(y.dtype).eps)
    status = torch.where(far, int(Status.STALLED), status)
    residual = batch.best.nan_to_num(math.inf)
    return batch.best_w().reshape(y.shape), residual, batch.steps, status


def _chosen(rows: Tensor) -> Tensor:
    """The indices of rows, given by a mask.

    Under transforms of `torch.func` shapes must not depend on numbers: then there are all or none.
    """
    if not is_transforming():
        return rows.nonzero()[:, 0]
    return torch.arange(len(rows) if bool(seen(rows).any()) else 0, device=rows.device)


def _start(net: FoldedNet, y: Tensor, tolerance: Tensor) -> _Rows:
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
        usable=torch.ones_like(length, dtype=torch.bool),
        best=length.nan_to_num(math.nan, math.nan),
        best_point=point,
        status=torch.full_like(length, int(Status.MAX_STEPS), dtype=torch.long),
        steps=torch.ones_like(length, dtype=torch.long),
    )


def _search(
    net: FoldedNet, shape: torch.Size, batch: _Rows, index: Tensor | None, leg: Leg
) -> bool:
    """Work until every row is solved or given up; False if surely none was given up.

    `index` are the rows to work on, by their numbers in `batch`; None: all, evaluated once.
    """
    rows = batch
    if index is not None:
        rows = batch.at(index)
        rows.point = rows.best_point
        rows.status = torch.where(rows.going(), int(Status.MAX_STEPS), rows.status)
        rows.usable = torch.ones_like(rows.usable)
    method = METHODS[leg.method](net if index is None else net.rows(index), shape)
    window, past = method.trial if leg.hand_over else _PATIENCE, [rows.best]
    kind, given_up = rows.y.device.type, True
    narrow = torch.is_autocast_enabled(kind)
    for step in range(2 if index is None else 1, leg.budget + 1):
        with torch.autocast(kind, enabled=False) if narrow else nullcontext():
            w = method.propose(rows.point, rows.usable)
        if not (left := rows.take(w, method.value(w))):
            given_up = step > _CHECK
            break
        # Go on without the others, where that saves more than it costs.
        few = len(rows.y) - left > 256 or (step > _CHECK and left <= len(rows.y) // 4)
        if few and not is_transforming():
            kept = rows.going().nonzero()[:, 0]
            if index is not None:
                batch.put(index, rows)
            index = kept if index is None else index[kept]
            rows, past = rows.at(kept), [best[kept] for best in past]
            method.keep(kept)
        if step % _CHECK == 0:
            over = min(window, step - 1) if step >= window else None
            rows.judge(past, over, hand_over=leg.hand_over)
            past = [*past, rows.best][-(window // _CHECK) :]
    if index is not None:
        batch.put(index, rows)
    return given_up
