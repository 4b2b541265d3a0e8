"""Both directions of a residual map `r(x) = x + g(x)`, with derivatives and log-determinants."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.numerics.adjoint import solve_transposed
from impflow_zoo.numerics.bound import BoundNet, Linearization
from impflow_zoo.numerics.equation import Equation
from impflow_zoo.numerics.estimate import Estimate, exact, truncated, unbiased
from impflow_zoo.numerics.finite import check_finite, refuse_rows
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.modes import forbid_second_order, recording
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.report import Doubts, Report
from impflow_zoo.numerics.rows import wide_norm
from impflow_zoo.numerics.search import Status
from impflow_zoo.numerics.solver import Solution, Solver

__all__ = ["ResidualMap"]


@dataclass(frozen=True)
class ResidualMap:
    """The residual map `r(x) = x + g(x)` of a batch of rows."""

    net: BoundNet  # `g`, bound to weights and context
    solver: Solver = field(default_factory=Solver)  # of roots and of systems behind derivatives
    logdet: LogDet = field(default_factory=LogDet)  # how log-determinants are computed
    training: bool = False  # take the tolerances of training, and warn instead of raising
    kappa: float | None = None  # Lipschitz constant of `g` in the 2-norm, where known
    equation: Callable[[Tensor], Equation] | None = None  # of a root, at a right-hand side
    salt: int = 0  # tells the seeded probes of this map from those of others
    probes: Probes = field(default_factory=Probes)  # where probes come from
    report: Report | None = None  # filled in with roots and log-determinants
    doubts: Doubts | None = None  # checks for the end of the call; None: check at once

    def value(self, x: Tensor) -> Tensor:
        """`r(x)`."""
        # Within a graph the net's own operations serve derivatives of any order.
        g = self.net.in_graph(x).to(x.dtype) if torch.is_grad_enabled() else self.net.value(x)
        return x + g

    def value_and_logdet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`r(x)` and `log det(I + J_g(x))`, `[B]`, from one linearization of the net."""
        gradient = torch.is_grad_enabled() and (x.requires_grad or self.net.wants_gradients(x))
        point, logdet = self._logdet(x, gradient=gradient)
        with recording():
            value = (point.x if x.requires_grad else point.x.detach()) + point.value
        return (value, logdet) if gradient else (value.detach(), logdet.detach())

    def inverse(self, y: Tensor) -> Tensor:
        """The `w` with `r(w) = y`, differentiable once by the implicit function theorem."""
        return self._root(y)[0]

    def inverse_and_logdet(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The `w` with `r(w) = y`, and `log det(I + J_g(w))`, `[B]`."""
        root, point, known = self._root(y)
        found, logdet = self._logdet(root, gradient=point is not None, at=point)
        if point is None:
            return root, logdet.detach()
        known.append(found.known_jacobian)
        return root, logdet

    def _root(self, y: Tensor) -> tuple[Tensor, Linearization | None, list[Tensor | None]]:
        """The root; the net there if gradients are recorded; a place for its dense Jacobian."""
        solution = self.solver.search(self.net, y, kappa=self.kappa, training=self.training)
        if self.report is not None:
            equation = None if self.equation is None else self.equation(y.detach())
            self.report.roots.append(replace(solution, equation=equation))
        self._doubt((~solution.converged).any(), partial(self._refuse_root, solution, y.detach()))
        root = solution.value
        wanted = torch.is_grad_enabled() and (y.requires_grad or self.net.wants_gradients(root))
        known: list[Tensor | None] = []
        if not wanted:
            return root, None, known
        point = self.net.linearize(root)
        rtol = self.solver.backward_tolerance(y.dtype, training=self.training)
        settings = (point, known, rtol, self.training)
        return _ImplicitRoot.apply(settings, y, point.attach_value()), point, known

    def _logdet(
        self, x: Tensor, *, gradient: bool, at: Linearization | None = None
    ) -> tuple[Linearization, Tensor]:
        """The linearization at `x`, from that at `at` if given, and its log-determinant."""
        mode = self.logdet.resolve(x.shape[1:].numel(), training=self.training)
        differentiable = gradient and mode == "truncated"
        if at is None or differentiable:
            point = self.net.linearize(x, differentiable=differentiable)
        else:
            point = at.moved(x)
        use, report = (point, self.logdet, self.kappa, self.probes), self.report
        with recording():
            if mode == "exact":
                estimate = exact(point, gradient=gradient)
            elif mode == "unbiased":
                estimate = unbiased(*use, gradient=gradient)
            else:
                details = report is not None
                estimate = truncated(*use, self.salt, gradient=gradient, details=details)
        if report is not None:
            alone = replace(estimate, value=estimate.value.detach(), solved=None)
            report.logdets.append(alone)
        # As for inputs, the sum is finite if every entry is.
        then = partial(self._refuse_logdet, point, estimate)
        self._doubt(estimate.value.detach().sum(), then)
        if (solved := estimate.solved) is not None:
            failed = solved.failed & estimate.value.isfinite()
            name, setting = "the gradient of log det(I + J)", "LogDet(rtol=)"
            then = partial(solved.refuse, failed, name, setting, training=self.training)
            self._doubt(failed.any(), then)
        return point, estimate.value

    def _refuse_root(self, solution: Solution, y: Tensor) -> None:
        """Say why a root was not found; in training warn."""
        if not self.training:
            # A root may be a thousand times as long as `y`.
            far = wide_norm(y) > 1e-3 * torch.finfo(y.dtype).max
            lost = (solution.status == Status.NOT_FINITE) | (far & ~solution.converged)
            refuse_rows(lost, "the search for a root met", _too_large(y))
        solution.refuse(training=self.training)

    def _refuse_logdet(self, point: Linearization, estimate: Estimate) -> None:
        """Say why there is no log-determinant; where a series diverges in training, warn."""
        if estimate.mode == "exact" or not self.training:
            # Where the net itself is no number, this says nothing of its slopes.
            jacobian = point.known_jacobian
            products = point.vjp(torch.ones_like(point.x)) if jacobian is None else jacobian
            for found, name in ((point.value, "values"), (products, "derivatives")):
                check_finite(found.detach(), f"{name} of a net", _too_large(found))
        estimate.refuse(training=self.training)

    def _doubt(self, wrong: Tensor, then: Callable[[], None]) -> None:
        doubts = Doubts() if self.doubts is None else self.doubts
        doubts.add(wrong, then)
        if self.doubts is None:
            doubts.settle()


def _too_large(x: Tensor) -> str:
    """Why numbers are not finite, if all weights and inputs are."""
    return f"numbers there are too large for {x.dtype}"


class _ImplicitRoot(torch.autograd.Function):
    """Attach a root `w` of `w + g(w) = y` to the caller's graph.

    Gradients flow to two tensors: to `y`, and to `g(w)`, which is in the graph of the weights. For
    the incoming gradient `t` of the root, the implicit function theorem gives the gradient
    `u = (I + J)^-T t` of `y`, and `-u` of `g(w)`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        settings: tuple[Linearization, list[Tensor | None], float, bool],
        y: Tensor,
        value: Tensor,
    ) -> Tensor:
        point, ctx.known, ctx.rtol, ctx.training = settings
        ctx.kind, ctx.net, ctx.value = type(point), point.net, weakref.ref(point.value)
        ctx.save_for_backward(*point.state())
        return point.x.detach().clone()

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple[Tensor | None, ...]:
        forbid_second_order()
        point = ctx.kind(ctx.net, *ctx.saved_tensors)
        with torch.autocast(t.device.type, enabled=False):
            if point.value is not ctx.value():
                # torch.utils.checkpoint and save_on_cpu return new tensors, and would do so again
                # for every product.
                point = ctx.net.linearize(point.x.detach())
            point.known_jacobian = ctx.known[0] if ctx.known else None
            solved = solve_transposed(point, t, ctx.rtol)
        if bool(solved.failed.any()):
            name, setting = "the implicit derivative", "Solver(backward_rtol=)"
            solved.refuse(solved.failed, name, setting, training=ctx.training)
        return None, solved.u, -solved.u
